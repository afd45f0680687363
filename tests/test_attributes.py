"""Language models that describe classes: what is asked, what is taken, what is kept."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from stakes.anchors import language_model as attributes
from stakes.anchors.descriptions import read_classes, read_descriptions, read_written
from stakes.anchors.language_model import PROMPTS, answer_of, describe
from stakes.anchors.making import make_anchors
from stakes.cli import commands as cli
from stakes.errors import InputError
from test_anchors import letters

KEY = "sk-a-secret-of-mine"
SOON = {"retry-after-ms": "1"}  # so that no test waits for the usual pauses
CAT, DOG = ["soft fur", "whiskers"], ["wet nose", "leash"]


def answer(given: str | list[str]) -> Response:
    """What an OpenAI-compatible server says: attributes, or a text as it is."""
    text = given if isinstance(given, str) else json.dumps({"attributes": given})
    message = {"role": "assistant", "content": text}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    body["choices"] = [{"index": 0, "finish_reason": "stop", "message": message}]
    return Response(json.dumps(body), content_type="application/json")


def failure(status: int) -> Response:
    return Response('{"error": {"message": "no"}}', status, SOON, content_type="application/json")


class Stub:
    """A language model that gives these answers in turn, the last one for ever."""

    def __init__(self, server: HTTPServer, path: str = "/v1/chat/completions") -> None:
        self.base_url = server.url_for("/v1")
        self.answers: list[Response] = []
        self.requests: list[Request] = []
        server.expect_request(path, method="POST").respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        request.get_data()  # it cannot be read later
        self.requests.append(request)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def asked(self, i: int = -1) -> str:
        """The last message of a request."""
        return self.requests[i].get_json()["messages"][-1]["content"]


@pytest.fixture
def stub(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Stub:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return Stub(httpserver)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in ("OPENAI", "ANTHROPIC", "OLLAMA"):
        monkeypatch.delenv(f"{provider}_API_KEY", raising=False)
        monkeypatch.delenv(f"{provider}_BASE_URL", raising=False)


# What an answer must be


@pytest.mark.parametrize(
    "texts",
    [["a"], list("abc"), ["a", " "], ["a", "A"], ["a", "b; c"], ["a", "b\nc"], ["a", "b" * 101]],
)
def test_answers_that_are_not_two_different_short_texts(texts):
    with pytest.raises(ValidationError):
        answer_of(2)(attributes=texts)
    assert answer_of(2)(attributes=["a", "b "]).attributes == ["a", "b"]


# Asking


@pytest.mark.slow
def test_failures_and_unusable_answers_are_tried_again(stub, tmp_path):
    stub.answers = [failure(500), failure(429), answer("so sorry"), answer(["soft fur"])]
    stub.answers += [answer(["soft fur", "Soft fur"]), answer(["soft fur", ""]), answer(CAT)]
    out = tmp_path / "new" / "pets.json"
    found = describe(["cat"], "openai:m", out, count=2, base_url=stub.base_url)
    assert found == read_descriptions(out) == {"cat": CAT}
    assert len(stub.requests) == 7
    assert stub.asked(0) == stub.asked(2)
    said = [stub.asked(i) for i in (3, 4, 5, 6)]
    expected = ["Invalid JSON", "at least 2 items", "different from the others", "at least 1 char"]
    assert all(what in text for what, text in zip(expected, said, strict=True))
    assert {request.headers["Authorization"] for request in stub.requests} == {f"Bearer {KEY}"}
    assert KEY not in out.read_text()
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_question_has_the_class_and_the_number(prompt, stub, tmp_path):
    stub.answers = [answer(list("abcde"))]
    out = tmp_path / "d.json"
    names = ["aquarium_fish", "{Zoë}"]
    describe(names, "openai:m", out, prompt=prompt, count=5, base_url=stub.base_url)
    assert '"aquarium fish" recognised' in stub.asked(0)
    assert '"{Zoë}" recognised' in stub.asked(1)
    assert ("the face of" in stub.asked(0)) == (prompt == "faces")
    assert "exactly 5 different" in stub.asked(0)
    card, described = read_written(out)
    assert list(described) == names
    assert card.pop("date").count("-") == 2
    assert card == {"model": "openai:m", "prompt": PROMPTS[prompt], "attributes": 5}


def test_anchors_can_be_made_of_what_is_written(stub, tmp_path):
    stub.answers = [answer(CAT), answer(DOG)]
    out = tmp_path / "d.json"
    describe(["cat", "dog"], "openai:m", out, count=2, base_url=stub.base_url)
    anchors = make_anchors(read_descriptions(out), letters())
    assert anchors.card["texts"] == {"cat": "soft fur; whiskers", "dog": "wet nose; leash"}


def test_progress_counts_the_classes(stub, tmp_path):
    stub.answers, said = [answer(CAT), answer(DOG)], []
    report = lambda *words: said.append(words)  # noqa: E731
    out = tmp_path / "d.json"
    describe(["cat", "dog"], "openai:m", out, count=2, base_url=stub.base_url, progress=report)
    both = [("describing", 0, 2, "cat"), ("describing", 1, 2, "dog"), ("describing", 2, 2)]
    assert said == both


def test_ollama_and_servers_of_ones_own_need_no_key(httpserver, monkeypatch, tmp_path):
    stub = Stub(httpserver)
    stub.answers = [answer(CAT)]
    describe(["cat"], "openai:m", tmp_path / "a.json", count=2, base_url=stub.base_url)
    monkeypatch.setenv("OLLAMA_BASE_URL", stub.base_url)
    describe(["cat"], "ollama:llama3", tmp_path / "b.json", count=2)
    assert [request.get_json()["model"] for request in stub.requests] == ["m", "llama3"]


@pytest.mark.slow
def test_anthropic(httpserver, monkeypatch, tmp_path):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    stub = Stub(httpserver, "/v1/messages")
    body = {"id": "1", "type": "message", "role": "assistant", "model": "m"}
    body |= {"stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 1}}
    body["content"] = [{"type": "text", "text": json.dumps({"attributes": CAT})}]
    stub.answers = [failure(529), Response(json.dumps(body), content_type="application/json")]
    out = tmp_path / "d.json"
    found = describe(["cat"], "anthropic:m", out, count=2, base_url=httpserver.url_for(""))
    assert found == {"cat": CAT}
    assert len(stub.requests) == 2
    assert KEY in str(stub.requests[0].headers)
    assert KEY not in out.read_text()


# Going on


def test_it_goes_on_where_it_stopped(stub, tmp_path):
    out = tmp_path / "d.json"
    stub.answers = [answer(CAT), failure(503)]
    with pytest.raises(ConnectionError, match=r"6 tries at dog.*503"):
        describe(["cat", "dog"], "openai:m", out, count=2, base_url=stub.base_url)
    assert read_descriptions(out) == {"cat": CAT}
    assert len(stub.requests) == 1 + 6
    out.write_text(out.read_text().replace('"date": "', '"date": "1'))
    stub.answers = [answer(DOG)]
    found = describe(["ant", "dog"], "openai:m", out, count=2, base_url=stub.base_url)
    assert found == read_descriptions(out) == {"cat": CAT, "ant": DOG, "dog": DOG}
    assert len(stub.requests) == 7 + 2
    assert read_written(out)[0]["date"].startswith("1")


def test_what_is_finished_needs_neither_key_nor_package(stub, tmp_path, monkeypatch):
    stub.answers = [answer(CAT)]
    out = tmp_path / "d.json"
    first = describe(["cat"], "openai:m", out, count=2, base_url=stub.base_url)
    before = out.read_bytes()
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setitem(sys.modules, "pydantic_ai", None)
    assert describe(["cat"], "openai:m", out, count=2) == first
    assert out.read_bytes() == before
    assert len(stub.requests) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "openai:other"}, "a different value of model: use the same one"),
        ({"prompt": "faces"}, "a different value of prompt"),
        ({"count": 3}, "a different value of attributes"),
    ],
)
def test_another_model_or_prompt_begins_anew_only_on_request(changes, message, stub, tmp_path):
    out = tmp_path / "d.json"
    stub.answers = [answer(CAT)]
    known = {"model": "openai:m", "prompt": "objects", "count": 2, "base_url": stub.base_url}
    describe(["cat"], out=out, **known)
    before = out.read_bytes()
    with pytest.raises(InputError, match=message):
        describe(["cat", "dog"], out=out, **(known | changes))
    assert out.read_bytes() == before
    stub.answers = [answer(["a", "b", "c"][: changes.get("count", 2)])]
    found = describe(["dog"], out=out, overwrite=True, **(known | changes))
    assert list(found) == list(read_descriptions(out)) == ["dog"]


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "gpt"}, "--model gpt: give PROVIDER:NAME, with openai, anthropic, ollama"),
        ({"model": "openai:"}, "--model openai:: give PROVIDER:NAME"),
        ({"model": "bert:x"}, "--model bert:x: give PROVIDER:NAME"),
        ({}, "--model openai:m needs a key: set OPENAI_API_KEY$"),
        ({"model": "anthropic:m"}, "needs a key: set ANTHROPIC_API_KEY$"),
        ({"base_url": "localhost:80"}, "URL localhost:80 does not begin with http"),
        ({"out": "digits"}, "written as .json: rename digits"),
        ({"count": 0}, "--attributes 0: ask for at least one"),
    ],
)
def test_what_cannot_be_asked(changes, message, tmp_path):
    known = {"class_names": ["cat"], "model": "openai:m", "out": tmp_path / "d.json"}
    with pytest.raises(InputError, match=message):
        describe(**(known | changes))
    assert not list(tmp_path.iterdir())


def test_files_that_others_wrote_are_left_alone(tmp_path):
    out = tmp_path / "d.json"
    out.write_text('{"cat": ["soft fur"]}')
    with pytest.raises(InputError, match="stakes describe"):
        describe(["dog"], "openai:m", out)
    out.write_text('{"cat": ')
    with pytest.raises(InputError, match="JSON"):
        describe(["dog"], "openai:m", out)
    assert out.read_text() == '{"cat": '


def test_the_extra_is_asked_for(stub, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydantic_ai", None)
    for name in [name for name in sys.modules if name.startswith("pydantic_ai.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match=r'pip install "stakes\[llm\]"$'):
        describe(["cat"], "openai:m", tmp_path / "d.json")


@pytest.mark.parametrize(
    ("reply", "error", "message", "requests"),
    [
        (failure(401), InputError, r"refuses the key \(401\): check OPENAI_API_KEY$", 1),
        (failure(404), InputError, "openai:m refuses the request: status_code: 404", 1),
        (answer("no"), InputError, "no usable attributes for cat in 6 answers", 6),
        (Response("<html>"), InputError, "no usable attributes for cat", 1),
        (failure(500), ConnectionError, "failed after 6 tries at cat", 6),
    ],
)
def test_what_does_not_come_right(reply, error, message, requests, stub, tmp_path):
    stub.answers = [reply]
    with pytest.raises(error, match=message) as caught:
        describe(["cat"], "openai:m", tmp_path / "d.json", base_url=stub.base_url)
    assert len(stub.requests) == requests
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_no_connection(stub, tmp_path, monkeypatch, httpserver):
    monkeypatch.setattr("stakes.anchors.language_model._TRIES", 1)
    httpserver.stop()
    with pytest.raises(ConnectionError, match=r"at cat \(no connection\)"):
        describe(["cat"], "openai:m", tmp_path / "d.json", base_url=stub.base_url)
    httpserver.start()


def test_class_files(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text(" cat \n\ndog\n")
    assert read_classes(file) == ["cat", "dog"]
    for text, what in (
        ("cat\n", "or more names"),
        ("cat\ncat\n", "cat appears more"),
        ("", "names"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=what):
            read_classes(file)
    with pytest.raises(InputError, match="no such file"):
        read_classes(tmp_path / "gone.txt")


# The command


def words_for(stub: Stub) -> list[str]:
    Path("pets.txt").write_text("cat\ndog\n")
    words = "describe --classes pets.txt --model openai:m --out pets.json --attributes 2"
    return [*words.split(), "--base-url", stub.base_url]


def test_the_command_says_what_it_did_or_what_was_wrong(stub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stub.answers = [answer(CAT), failure(500)]
    assert cli.main(words_for(stub)) == 1
    assert (
        "stakes: cannot continue: openai:m failed after 6 tries at dog" in capsys.readouterr().err
    )
    stub.answers = [answer(DOG)]
    assert cli.main(words_for(stub)) == 0
    assert capsys.readouterr().out == "2 classes described: pets.json\n"
    assert read_descriptions("pets.json") == {"cat": CAT, "dog": DOG}
    assert cli.main([*words_for(stub), "--prompt", "faces"]) == 2
    assert "a different value of prompt" in capsys.readouterr().err
    assert len(stub.requests) == 1 + 6 + 1


@pytest.mark.slow
def test_the_real_command_goes_on_after_an_interruption(stub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [str(Path(sys.executable).with_name("stakes")), *words_for(stub)]
    stub.answers = [answer(CAT), failure(429)]
    stub.answers[1].headers["retry-after-ms"] = "60000"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(stub.requests) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    err = first.communicate(timeout=30)[1].decode()
    assert first.returncode == 128 + signal.SIGINT
    assert err.endswith("stakes: interrupted; nothing is half written\n")
    assert "Traceback" not in err
    assert read_descriptions("pets.json") == {"cat": CAT}
    assert KEY not in Path("pets.json").read_text() + err
    stub.answers = [answer(DOG)]
    assert cli.main(words_for(stub)) == 0
    assert read_descriptions("pets.json") == {"cat": CAT, "dog": DOG}


def test_the_packages_are_imported_only_to_ask(monkeypatch):
    for name in ("pydantic_ai", "openai", "anthropic"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "describe" in runpy.run_path(attributes.__file__)
