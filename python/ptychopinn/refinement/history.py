# SPDX-License-Identifier: BSD-3-Clause
"""Limited memory of a quasi-Newton method: pairs of steps and changes of the gradient, in one block of memory.

The inverse Hessian that the pairs define is applied in its compact form (R. H. Byrd, J. Nocedal and R. B. Schnabel,
Math. Program. 63, 129 (1994), theorem 2.2): two products of all pairs with a vector, and small triangular systems in
float64. It is the same matrix as that of the two-loop recursion, without a loop over pairs, so that a direction takes
few kernels, of fixed shapes, and no value is read back to the host.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ptychopinn.refinement.state import Layout, Vector

#: A pair is kept if the inner product of step and change is more than this, relative to the change's square.
_CURVATURE = 1e-10


class History:
    """The last pairs, in a ring of slots of which one is free.

    Args:
        layout: of the vectors.
        pairs: largest number of them.

    Attributes:
        rows: (2 (pairs + 1), size): step and change of the gradient of every slot.
        valid: bool, (pairs + 1,), slots that hold a pair.
    """

    def __init__(self, layout: Layout, pairs: int) -> None:
        self.slots = pairs + 1
        device = layout.device
        self.rows = layout.zeros(2 * self.slots)
        self.valid = torch.zeros(self.slots, dtype=torch.bool, device=device)
        #: Slot that is free, and the one that was filled last.
        self.head = torch.zeros(1, dtype=torch.int64, device=device)
        self.last = torch.zeros(1, dtype=torch.int64, device=device)
        #: Whether the pair in `last` was added since the last direction.
        self.fresh = torch.zeros((), dtype=torch.bool, device=device)
        #: Inner products of all steps (first row) and changes with the gradient of the last direction.
        self.products = torch.zeros(2, self.slots, dtype=torch.float64, device=device)
        #: Inner products of the steps (first) and changes, (i), with the changes, (j).
        self.gram = torch.zeros(2, self.slots, self.slots, dtype=torch.float64, device=device)
        #: The same of the last pair with its own change.
        self.own = torch.zeros(2, dtype=torch.float64, device=device)
        self._indices = torch.arange(self.slots, device=device)
        #: Slots in use; on CUDA all, because shapes are fixed.
        self.used = self.slots if device.type == "cuda" else 1

    @property
    def nbytes(self) -> int:
        """Size of the pairs in bytes."""
        return self.rows.nbytes

    def clear(self) -> None:
        """Remove all pairs."""
        self.valid.zero_()
        self.fresh.zero_()
        self.head.zero_()
        self.used = self.slots if self.valid.is_cuda else 1

    def direction(self, gradient: Vector, out: Vector) -> None:
        """Write minus the inverse Hessian times a gradient to ``out``."""
        used = self.used
        products = self._products(gradient)
        self._complete_gram(products)
        # Slots from the oldest to the free one, which is the last.
        order = (self.head + 1 + self._indices[:used]) % used
        valid = self.valid[:used].index_select(0, order)
        both = valid[:, None] & valid
        steps, changes = (part[:used, :used].index_select(0, order).index_select(1, order) for part in self.gram)
        curvatures = torch.where(valid, steps.diagonal(), 1.0)
        triangle = torch.where(both, steps, 0.0).triu(1) + curvatures.diag()
        squares = torch.where(both, changes, 0.0)
        of_steps, of_changes = torch.where(valid, products[:, :used].index_select(1, order), 0.0)
        newest = torch.where(self.valid[self.last], self.gram[:, self.last, self.last], 1.0)
        scale = (newest[0] / newest[1]).squeeze()

        inner = torch.linalg.solve_triangular(triangle, of_steps[:, None], upper=True)
        right = torch.where(valid, steps.diagonal(), 0.0)[:, None] * inner
        right = right + scale * (squares @ inner - of_changes[:, None])
        outer = torch.linalg.solve_triangular(triangle.mT, right, upper=False)
        factors = torch.empty(used, 2, dtype=torch.float64, device=order.device)
        factors[order] = torch.cat([-outer, scale * inner], 1)
        factors = factors.view(-1)
        for rows, part, result in zip(self.rows, gradient, out, strict=True):
            combined = factors.to(part.dtype) @ rows[: 2 * used]
            torch.addcmul(combined, part, scale.to(part.dtype), value=-1, out=result)

    def add(self, step: Vector, change: Vector) -> None:
        """Add a pair, in place of the oldest one if there is no other slot, if the curvature along it is positive."""
        own = torch.stack([step.dot(change), change.dot(change)])
        for target, first, second in zip(self.rows, step, change, strict=True):
            target.index_copy_(0, 2 * self.head, first[None])
            target.index_copy_(0, 2 * self.head + 1, second[None])
        kept = own[0] > _CURVATURE * own[1]
        self.own.copy_(own)
        self.fresh.copy_(kept)
        self.last.copy_(torch.where(kept, self.head, self.last))
        following = (self.head + 1) % self.slots
        self.valid.index_copy_(0, self.head, kept[None])
        # The next free slot loses its pair; without a new pair nothing is lost.
        oldest = self.valid.index_select(0, following)
        self.valid.index_copy_(0, following, oldest & ~kept)
        self.head.copy_(torch.where(kept, following, self.head))
        self.used = min(self.used + 1, self.slots)

    def forget(self, where: Tensor) -> None:
        """Remove all pairs if ``where``, bool, ()."""
        self.valid.logical_and_(~where)

    def _products(self, vector: Vector) -> Tensor:
        """Inner products (2, slots) of all steps and changes with a vector."""
        rows = 2 * self.used
        products = (self.rows.single[:rows] @ vector.single).double() + self.rows.double[:rows] @ vector.double
        products = products.view(self.used, 2).T
        if self.used == self.slots:
            return products
        return torch.nn.functional.pad(products, (0, self.slots - self.used))

    def _complete_gram(self, products: Tensor) -> None:
        """Add the products with the last change, which is the difference of two gradients, to those of the changes."""
        column = (products - self.products).index_copy(1, self.last, self.own[:, None])
        old = self.gram.index_select(2, self.last)
        column = torch.where(self.fresh, column[:, :, None], old)
        self.gram.index_copy_(2, self.last, column)
        self.gram[1].index_copy_(0, self.last, column[1].T)
        self.products.copy_(products)
        self.fresh.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, of the slots in use only."""
        rows = 2 * self._slots_to_save()
        parts = self.rows.to_dict().items()
        return {
            # torch.save writes all of the memory that a view is of.
            "rows": {name: part[:rows].clone() if rows < len(part) else part for name, part in parts},
            "used": self.used,
            **{name: getattr(self, name) for name in _SAVED},
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name, part in self.rows.to_dict().items():
            part[: len(saved["rows"][name])] = saved["rows"][name]
        for name in _SAVED:
            getattr(self, name).copy_(saved[name])
        self.used = self.slots if self.valid.is_cuda else saved["used"]

    def _slots_to_save(self) -> int:
        filled = torch.cat([self.valid.nonzero().flatten(), self.head])
        return int(filled.max()) + 1


#: Small tensors of a history.
_SAVED = ("valid", "head", "last", "fresh", "products", "gram", "own")
