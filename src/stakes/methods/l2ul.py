"""L2UL: Adv with the weights that matter little to the forget set held in place."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stakes.methods.adversarial import PASSES, AdversarialFields, Pairs, adversarial_terms
from stakes.methods.base import hyper
from stakes.methods.task import Task, Unlearned
from stakes.training.importance import mean_gradient_magnitude, min_max
from stakes.training.losses import quadratic


@dataclass(frozen=True, kw_only=True)
class L2UL(AdversarialFields):
    """The loss of Adv, and ``lambda/2 sum (1 - I) (theta - theta_0)^2``.

    Cha et al., "Learning to Unlearn", AAAI 2024. I is the MAS importance of each weight for the
    forget set, the magnitude of the gradient of the logits' mean norm, scaled to [0, 1] within each
    tensor. As in the authors' code the gradient is that of a batch, with BatchNorm in train mode;
    the paper's formula takes one image at a time.

    Differences from the authors' code: those of ``Adv``, batches and length among them; a constant
    importance tensor becomes zeros where theirs gives NaN; from the second batch of the importance
    on, theirs adds the gradients of all batches before it, since it clears those of another
    network.
    """

    title: ClassVar[str] = "L2UL"
    divisible: ClassVar[bool] = True

    reg_weight: float = hyper(1.0, "lambda, weight of the regulariser", "public code of L2UL")

    def unlearn(self, task: Task) -> Unlearned:
        """As Adv, with the weights that matter little held in place."""
        pairs = Pairs(task, self.attack(task), self.probe_batch, self.forget_batch)
        parameters = task.trainable()
        origin = {name: p.detach().clone() for name, p in parameters.items()}
        freedom = {name: 1 - value for name, value in min_max(self._importance(task)).items()}

        def terms(step: int) -> dict[str, Tensor]:
            held = self.reg_weight * quadratic(parameters, origin, freedom)
            return adversarial_terms(task.live, next(pairs)) | {"regularisation": held}

        task.live.train(self.batch_norm == "train")
        budget = self.max_steps or PASSES * pairs.steps_per_pass
        prescribed = not self.max_steps
        return task.descend(terms, self.optimizer(task), budget, prescribed=prescribed)

    def _importance(self, task: Task) -> dict[str, Tensor]:
        """MAS, of a copy, whose BatchNorm statistics may move."""
        copy = task.live.copy().train(self.batch_norm == "train")
        parameters = {n: p for n, p in copy.named_parameters() if p.requires_grad}
        with task.timed("importance"):
            return mean_gradient_magnitude(
                parameters,
                lambda images: copy(images).norm(dim=1).mean(),
                task.forget.images,
                lambda done, total: task.progress("importance", done, total),
                batch_size=self.forget_batch,
            )
