"""Cross-entropy, on logits or straight from features without ever holding all logits."""

from __future__ import annotations

from minillm import kernels
from minillm.arrays import unseen
from minillm.op import Op, targets
from minillm.ops.linear import check_ids
from minillm.ops.softmax import peak
from minillm.tensor import grad_mode

IGNORE_INDEX = -100
CHUNK_ELEMENTS = 1 << 20  # logits held at once by linear_cross_entropy, about
KEPT_ELEMENTS = 1 << 24  # logits that a library may keep for its backward pass, at most
CLASSES_TOGETHER = 2048  # it keeps them for so many classes at a time, or for all


def row_losses(xp, logits, target, ignore_index, label_smoothing):
    """Loss of each row (0 where ignored) and the rows' log sum exp."""
    top = peak(xp, logits)
    low = logits - top
    others = xp.where(low == 0, low.dtype.type(0), xp.exp(low))
    ties = xp.sum(low == 0, axis=-1, dtype=low.dtype) - 1
    lse = xp.log1p(xp.sum(others, axis=-1) + ties)  # exact where one class has nearly all
    used = target != ignore_index
    safe = xp.where(used, target, 0)[:, None]
    losses = (1 - label_smoothing) * (lse - xp.take_along_axis(low, safe, axis=-1)[:, 0])
    if label_smoothing:
        losses += label_smoothing * (lse - xp.mean(low, axis=-1, dtype=logits.dtype))
    return xp.where(used, losses, logits.dtype.type(0)), lse + top[:, 0]


def row_gradients(xp, grad, logits, target, lse, ignore_index, label_smoothing):
    """d loss / d logits, each row times its upstream `grad`."""
    used = target != ignore_index
    scale = xp.where(used, grad, grad.dtype.type(0))[:, None]
    out = xp.exp(logits - lse[:, None])
    if label_smoothing:
        out -= label_smoothing / logits.shape[1]
    rows = xp.arange(len(target))
    out[rows, xp.where(used, target, 0)] -= 1 - label_smoothing
    return xp.where(used[:, None], out * scale, grad.dtype.type(0))


def used_count(xp, target, ignore_index, dtype):
    """How many targets count, where they are: the host does not wait for it."""
    return xp.sum(target != ignore_index, dtype=dtype)


def cross_entropy_forward(
    xp, logits, target, *, ignore_index=IGNORE_INDEX, label_smoothing=0.0, reduction="mean"
):
    """-log softmax(logits)[target]

    logits (..., V), target (...) integers in 0 <= id < V or `ignore_index` (IndexError otherwise).
    reduction "mean" (over targets not ignored), "sum" or "none". Label smoothing s mixes the target
    with the uniform distribution: (1 - s) * target + s / V (Szegedy et al. 2016).
    """
    flat = logits.reshape(-1, logits.shape[-1])
    losses, lse = row_losses(xp, flat, target.reshape(-1), ignore_index, label_smoothing)
    return finished(xp, losses, target, ignore_index, reduction), (logits, target, lse)


def finished(xp, losses, target, ignore_index, reduction):
    if reduction == "none":
        return losses.reshape(target.shape)
    total = xp.asarray(xp.sum(losses, dtype=losses.dtype))
    if reduction == "mean":
        total = total / used_count(xp, target, ignore_index, total.dtype)
    return total


def row_upstream(xp, grad, target, ignore_index, reduction):
    """The upstream gradient of each row's loss, contiguous, shape (N,)."""
    if reduction == "none":
        return grad.reshape(-1)
    if reduction == "mean":
        grad = grad / used_count(xp, target, ignore_index, grad.dtype)
    return xp.full((target.size,), grad, grad.dtype)


def cross_entropy_backward(
    xp, grad, saved, *, ignore_index=IGNORE_INDEX, label_smoothing=0.0, reduction="mean"
):
    logits, target, lse = saved
    rows = row_upstream(xp, grad, target, ignore_index, reduction)
    flat = logits.reshape(-1, logits.shape[-1])
    dlogits = row_gradients(xp, rows, flat, target.reshape(-1), lse, ignore_index, label_smoothing)
    return dlogits.reshape(logits.shape), None


def cross_entropy_check(
    logits, target, *, ignore_index=IGNORE_INDEX, label_smoothing=0.0, reduction="mean"
):
    if not logits.ndim or target.shape != logits.shape[:-1]:
        raise ValueError(
            f"cross_entropy: logits {logits.shape} and target {target.shape}, "
            "(..., V) and (...) are needed"
        )
    check_targets(target, logits.shape[-1], ignore_index, label_smoothing, reduction)


def check_targets(target, size, ignore_index, label_smoothing, reduction):
    name = "cross_entropy"
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction={reduction!r}, 'mean', 'sum' or 'none' is needed")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"{name}: label_smoothing={label_smoothing}, 0 <= s < 1 is needed")
    if unseen(target):
        return
    used = target[target != ignore_index]
    check_ids(name, used, size)
    if reduction == "mean" and not used.size:
        raise ValueError(
            f"{name}: all {target.size} targets are ignored ({ignore_index}), "
            "the mean needs at least 1; use reduction='sum'"
        )


def cross_entropy_kernel_forward(
    lib, xp, logits, target, *, ignore_index=IGNORE_INDEX, label_smoothing=0.0, reduction="mean"
):
    if logits.dtype != xp.float32 or not logits.size:
        return NotImplemented
    losses, lse = xp.empty(target.size, xp.float32), xp.empty(target.size, xp.float32)
    lib.cross_entropy_forward(
        xp.ascontiguousarray(logits).reshape(-1, logits.shape[-1]),
        xp.ascontiguousarray(target, dtype=xp.int64).reshape(-1),
        ignore_index,
        label_smoothing,
        losses,
        lse,
    )
    return finished(xp, losses, target, ignore_index, reduction), (logits, target, lse)


def cross_entropy_kernel_backward(
    lib, xp, grad, saved, *, ignore_index=IGNORE_INDEX, label_smoothing=0.0, reduction="mean"
):
    logits, target, lse = saved
    if logits.dtype != xp.float32 or not logits.size:
        return NotImplemented
    dlogits = xp.empty(logits.shape, logits.dtype)
    lib.cross_entropy_backward(
        xp.ascontiguousarray(row_upstream(xp, grad, target, ignore_index, reduction)),
        xp.ascontiguousarray(logits).reshape(-1, logits.shape[-1]),
        xp.ascontiguousarray(target, dtype=xp.int64).reshape(-1),
        lse,
        ignore_index,
        label_smoothing,
        dlogits.reshape(-1, logits.shape[-1]),
    )
    return dlogits, None


def target_sample(draw, size, *shape):
    """Targets with some ignored, at least one used unless there are none."""
    target = draw.integers(size, *shape)
    if target.size:
        ignored = draw.mask(*shape)
        ignored.reshape(-1)[0] = False
        target[ignored] = IGNORE_INDEX
    return target


def loss_params(draw, target):
    return {
        "label_smoothing": draw.choice((0.0, 0.1)),
        "reduction": draw.choice(("mean", "sum", "none") if target.size else ("sum", "none")),
    }


def cross_entropy_sample(draw):
    size = draw.size("V", low=1)
    logits = draw.normal(*draw.shape(dims=draw.choice((0, 1, 2))), size)
    target = target_sample(draw, size, *logits.shape[:-1])
    return [logits, target], loss_params(draw, target)


def linear_cross_entropy_forward(
    xp, x, weight, target, *, ignore_index=IGNORE_INDEX, label_smoothing=0.0, reduction="mean"
):
    """cross_entropy(x @ weight.T, target), a chunk of rows at a time

    x (..., C), weight (V, C), target (...); about CHUNK_ELEMENTS logits exist at once. The backward
    pass computes them again, except those that a library kept: the last array it saves.
    """
    rows, flat = x.reshape(-1, x.shape[-1]), target.reshape(-1)
    losses, lse = xp.empty(flat.shape, x.dtype), xp.empty(flat.shape, x.dtype)
    for part in chunks(flat.size, weight.shape[0]):
        logits = xp.matmul(rows[part], weight.T)
        losses[part], lse[part] = row_losses(xp, logits, flat[part], ignore_index, label_smoothing)
    kept = xp.empty((0, flat.size), x.dtype)
    return finished(xp, losses, target, ignore_index, reduction), (x, weight, target, lse, kept)


def linear_cross_entropy_backward(
    xp, grad, saved, *, ignore_index=IGNORE_INDEX, label_smoothing=0.0, reduction="mean"
):
    x, weight, target, lse, _ = saved
    scale = row_upstream(xp, grad, target, ignore_index, reduction)
    rows, flat = x.reshape(-1, x.shape[-1]), target.reshape(-1)
    dx, dweight = xp.empty(rows.shape, x.dtype), xp.zeros(weight.shape, x.dtype)
    for part in chunks(flat.size, weight.shape[0]):
        logits = xp.matmul(rows[part], weight.T)
        dlogits = row_gradients(
            xp, scale[part], logits, flat[part], lse[part], ignore_index, label_smoothing
        )
        dx[part] = xp.matmul(dlogits, weight)
        dweight += xp.matmul(dlogits.T, rows[part])
    return dx.reshape(x.shape), dweight, None


def chunks(rows, width):
    step = max(1, CHUNK_ELEMENTS // max(1, width))
    return [slice(start, min(rows, start + step)) for start in range(0, rows, step)]


def linear_cross_entropy_check(
    x, weight, target, *, ignore_index=IGNORE_INDEX, label_smoothing=0.0, reduction="mean"
):
    if weight.ndim != 2 or not x.ndim or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear_cross_entropy: x {x.shape} and weight {weight.shape}, "
            "(..., C) and (V, C) are needed"
        )
    if target.shape != x.shape[:-1]:
        raise ValueError(f"linear_cross_entropy: target {target.shape}, {x.shape[:-1]} is needed")
    check_targets(target, weight.shape[0], ignore_index, label_smoothing, reduction)


def linear_cross_entropy_kernel_forward(
    lib, xp, x, weight, target, *, ignore_index=IGNORE_INDEX, label_smoothing=0.0, reduction="mean"
):
    if x.dtype != xp.float32 or weight.dtype != xp.float32 or not target.size:
        return NotImplemented
    losses, lse = xp.empty(target.size, xp.float32), xp.empty(target.size, xp.float32)
    classes = kept_classes(lib, target.size, weight.shape[0])
    kept = xp.empty((classes, target.size), xp.float32)
    lib.linear_cross_entropy_forward(
        xp.ascontiguousarray(x).reshape(-1, x.shape[-1]),
        xp.ascontiguousarray(weight),
        xp.ascontiguousarray(target, dtype=xp.int64).reshape(-1),
        ignore_index,
        label_smoothing,
        losses,
        lse,
        kept,
    )
    return finished(xp, losses, target, ignore_index, reduction), (x, weight, target, lse, kept)


def kept_classes(lib, rows, classes):
    """For how many classes the logits of `rows` are kept: in bfloat16 that would not pay."""
    if not grad_mode.enabled or kernels.active_precision != "f32":
        return 0
    if not getattr(lib.runtime, "keeps_logits", True):
        return 0
    if rows * classes <= KEPT_ELEMENTS:
        return classes
    return KEPT_ELEMENTS // rows // CLASSES_TOGETHER * CLASSES_TOGETHER


def linear_cross_entropy_kernel_backward(
    lib,
    xp,
    grad,
    saved,
    totals,
    *,
    ignore_index=IGNORE_INDEX,
    label_smoothing=0.0,
    reduction="mean",
):
    x, weight, target, lse, kept = saved
    if x.dtype != xp.float32 or weight.dtype != xp.float32 or not target.size:
        return NotImplemented
    (dx, dweight), add = targets(xp, totals, x.shape, weight.shape)
    lib.linear_cross_entropy_backward(
        xp.ascontiguousarray(row_upstream(xp, grad, target, ignore_index, reduction)),
        xp.ascontiguousarray(x).reshape(-1, x.shape[-1]),
        xp.ascontiguousarray(weight),
        xp.ascontiguousarray(target, dtype=xp.int64).reshape(-1),
        lse,
        kept,
        ignore_index,
        label_smoothing,
        dx.reshape(-1, x.shape[-1]),
        dweight,
        add,
    )
    return dx, dweight, None


def linear_cross_entropy_sample(draw):
    size, width = draw.size("V", low=1), draw.size("C", low=1)
    x = draw.normal(*draw.shape(dims=draw.choice((1, 2))), width)
    target = target_sample(draw, size, *x.shape[:-1])
    return [x, draw.normal(size, width), target], loss_params(draw, target)


cross_entropy = Op(
    cross_entropy_forward,
    cross_entropy_backward,
    cross_entropy_sample,
    check=cross_entropy_check,
    kernel_forward=cross_entropy_kernel_forward,
    kernel_backward=cross_entropy_kernel_backward,
    constant=(1,),
)
linear_cross_entropy = Op(
    linear_cross_entropy_forward,
    linear_cross_entropy_backward,
    linear_cross_entropy_sample,
    check=linear_cross_entropy_check,
    kernel_forward=linear_cross_entropy_kernel_forward,
    kernel_backward=linear_cross_entropy_kernel_backward,
    constant=(2,),
    accumulates=(0, 1),
)
