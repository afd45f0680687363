"""Which of the tensors in a checkpoint are the network's, as trainers of many kinds save them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stakes.errors import InputError, nearest, some

#: Where training scripts put the state dict inside what they save, the most usual first.
CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
#: What data-parallel and compiled wrappers put before every name.
WRAPPERS = ("module.", "_orig_mod.")
#: What profilers (thop) and averaging (torch.optim.swa_utils) leave beside the weights.
BOOKKEEPING = ("total_ops", "total_params", "n_averaged")

State = dict[str, Tensor]


def network_state(
    content: Any, where: str, own: Mapping[str, Any] | None = None, key: str | None = None
) -> State:
    """The named tensors of one network in what a checkpoint holds.

    Where the checkpoint holds several state dicts (the weights and their moving average, two
    networks), it is the one whose names are the network's.

    Args:
        content: what was read.
        where: the file, for messages.
        own: the state dict of the network that wants weights: names are brought to its names.
            Without it, what wrappers put before all names is taken off.
        key: the state dict to take, as ``state_dict_ema``, or where names of several networks
            stand in one, what the wanted names begin with.

    Raises:
        InputError: no named tensors, no such key, or several networks that fit.
    """
    if isinstance(content, Tensor):
        raise InputError(
            f"{where} holds one bare tensor, not the named tensors of a network; "
            "save one: torch.save(model.state_dict(), ...)"
        )
    if not isinstance(content, Mapping):
        raise InputError(
            f"{where} holds a {type(content).__name__}, not a state dict; "
            "save one: torch.save(model.state_dict(), ...)"
        )
    found = _states(content)
    if not found:
        keys = some([repr(key) for key in content], 6) or "an empty dict"
        raise InputError(
            f"{where} holds no tensors, only {keys}; save one: torch.save(model.state_dict(), ...)"
        )
    if key is not None:
        return fit_names(_under(key, found, where), where, own)
    if own is None:
        return fit_names(next(iter(found.values())), where, None)
    fitting = [name for name, state in found.items() if _best_prefixes(state, own)[1]]
    if len(fitting) > 1:
        raise InputError(
            f"{where} holds several networks that fit: {some(fitting)}; say which to take, such as "
            f"--weights-key {fitting[-1]}"
        )
    chosen = found[fitting[0]] if fitting else next(iter(found.values()))
    return fit_names(chosen, where, own)


def fit_names(state: State, where: str, own: Mapping[str, Any] | None) -> State:
    """The state under the names that a network has itself, without what stands beside them.

    A prefix is taken off only where more names are the network's without it, so a network with an
    attribute called ``module`` keeps it.

    >>> import torch
    >>> one, own = torch.ones(1), {"fc.bias": torch.zeros(1)}
    >>> list(fit_names({"model.fc.bias": one, "loss.weight": one}, "w.pt", own))
    ['fc.bias']
    """
    if own is None:
        return _strip(state)
    prefixes, complete = _best_prefixes(state, own)
    if complete and len(prefixes) > 1:
        raise InputError(
            f"{where} holds several networks that fit, their names beginning with "
            f"{some(prefixes)}; say which to take, such as --weights-key {prefixes[0].rstrip('.')}"
        )
    prefix = prefixes[0]
    named = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    beside = {} if complete else {n: t for n, t in state.items() if not n.startswith(prefix)}
    return {
        name: tensor
        for name, tensor in (beside | named).items()
        if name in own or name.rpartition(".")[2] not in BOOKKEEPING
    }


def _states(content: Mapping[Any, Any]) -> dict[str, State]:
    """Every state dict in a checkpoint by its key; that of the checkpoint itself under ""."""
    usual = [key for key in CONTAINERS if key in content]
    others = [key for key in content if isinstance(key, str) and key not in usual]
    found = {key: _tensors(content[key]) for key in (*usual, *others)}
    return {key: state for key, state in (found | {"": _tensors(content)}).items() if state}


def _tensors(content: Any) -> State:
    if not isinstance(content, Mapping):
        return {}
    return {
        name: value.detach()
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _under(key: str, found: Mapping[str, State], where: str) -> State:
    """The state dict called ``key``, or else the tensors whose names begin with it."""
    if found.get(key):
        return found[key]
    start = key.rstrip(".") + "."
    for state in found.values():
        named = {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}
        if named:
            return named
    raise InputError(f"--weights-key {key}: {where} has none{nearest(key, filter(None, found))}")


def _best_prefixes(state: State, own: Mapping[str, Any]) -> tuple[list[str], bool]:
    """The prefixes under which most of the network's names are found, and whether all are.

    The empty prefix goes before others that are as good.
    """
    wanted = [name for name in own if name.rpartition(".")[2] != "num_batches_tracked"]
    candidates = {""}
    for name in (*wanted[:1], *wanted[-1:]):
        candidates |= {n.removesuffix(name) for n in state if n.endswith(f".{name}")}
    found = {p: sum(p + name in state for name in wanted) for p in sorted(candidates)}
    most = max(found.values())
    best = [prefix for prefix, count in found.items() if count == most]
    return best[:1] if "" in best else best, most == len(wanted)


def _strip(state: State) -> State:
    """Take off what wrappers put before every name, as often as it is there."""
    for prefix in WRAPPERS * 2:
        if all(name.startswith(prefix) and name != prefix for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
