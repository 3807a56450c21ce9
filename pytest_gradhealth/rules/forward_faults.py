"""What is wrong where an operation of a forward or a loss is the first to make NaN or infinity."""

from __future__ import annotations

from pytest_gradhealth.rules.fault import (
    OFF_THE_EDGES,
    UNMASKED,
    Fault,
    at_zero,
    mixes,
    of_finite,
    of_minus_infinity,
    of_negative,
    overflows,
)

_LOGS = "log log2 log10"
_CLAMPED_LOG = "torch.log(x.clamp_min({small}))"
#: What a logarithm of 0 is taken of, by the operations that made it.
_ZERO_IN_LOG = {
    "sum exp": (
        "all that is summed up has rounded to 0",
        "torch.logsumexp(x, -1) in place of the log of a sum of exp(x)",
    ),
    "sum": ("a sum of nothing but zeros, as under an empty mask", _CLAMPED_LOG),
    "mul": (
        "a product with 0, as of a mask or of dropout",
        f"the mask behind the logarithm, not before it, or {_CLAMPED_LOG}",
    ),
    "softmax": (
        "softmax has rounded to 0",
        f"F.log_softmax(x, -1) in place of the log of a softmax, or {_CLAMPED_LOG}",
    ),
    "rsub softmax": (
        "softmax gives 1",
        "torch.log1p(-p.clamp(max=1 - {edge})) for the log of 1 - p",
    ),
    "sigmoid": (
        "a sigmoid has rounded to 0",
        "F.logsigmoid(x) for the log of a sigmoid, or a loss on logits",
    ),
    "rsub sigmoid": (
        "a sigmoid has rounded to 1",
        "F.logsigmoid(-x) for the log of 1 - sigmoid, or a loss on logits",
    ),
    "rsub pow tanh": (
        "1 - tanh(x) ** 2 has rounded to 0",
        "2 * (math.log(2) - x - F.softplus(-2 * x)), which is its log",
    ),
    "prod": (
        "a product of many factors has rounded to 0",
        "the sum of the logs in place of the log of a product",
    ),
}

_DIVISIONS = "div true_divide reciprocal"
#: Divisors are of either sign, and what is not 0 itself gets huge over next to nothing.
_NO_ZERO = (
    "a divisor that cannot be 0: F.softplus(y) where it is positive, other values to start with"
    " where it is learned"
)
_LEFT_OUT = "torch.where(y == 0, 0, x / torch.where(y == 0, 1, y))"

#: What is divided by where it is 0, by the operation that made it, and what to do about that. Of a
#: zero vector a smaller eps only makes the gradient explode.
_DIVISORS = {
    "linalg_vector_norm": (
        "the norm of a zero vector",
        "F.normalize(x, dim=-1, eps=1e-2), or the norm with .clamp_min(1e-2) behind it",
    ),
    "std": (
        "a standard deviation of 0: all numbers are equal",
        "(x - x.mean()) / (x.std() + {below})",
    ),
    "var": (
        "a variance of 0: all numbers are equal",
        "(x - x.mean()) / (x.var() + {below}).sqrt()",
    ),
    "sum exp": (
        "a sum of exponentials that have all rounded to 0",
        "F.softmax(x, -1) in place of exp(x) over the sum of exp(x)",
    ),
    "sum": (
        "a sum of nothing but zeros, as of an empty mask or of a node without neighbours",
        "x.sum() / mask.sum().clamp_min(1)",
    ),
}
#: Functions of a number that are not defined for all: for which not, and where they are.
_DOMAINS = (
    (
        "log1p special_xlog1py",
        lambda bad: bad.last <= -1,
        "above -1",
        "torch.log1p(x.clamp_min(-1 + {edge}))",
    ),
    (
        "acos asin arccos arcsin",
        lambda bad: abs(bad.last) > 1,
        "from -1 to 1",
        OFF_THE_EDGES,
    ),
    (
        "atanh arctanh erfinv special_erfinv",
        lambda bad: abs(bad.last) >= 1,
        "between -1 and 1",
        OFF_THE_EDGES,
    ),
    ("acosh arccosh", lambda bad: bad.last < 1, "from 1 on", "x.clamp_min(1 + {edge}) before it"),
)

_MEANS = "mean mse_loss smooth_l1_loss huber_loss soft_margin_loss"
_MEANS += " binary_cross_entropy binary_cross_entropy_with_logits"
_DEVIATIONS = "std var std_mean var_mean"
_TOO_MUCH = "is more than {format} holds ({most})"

FORWARD = (
    Fault(
        "softmax log_softmax scaled_dot_product_attention",
        of_minus_infinity,
        "softmax over a row that is all -inf is 0 / 0: every position of it is masked",
        UNMASKED,
    ),
    *(
        Fault(_LOGS, at_zero, f"log of 0: {why}", advice, behind)
        for behind, (why, advice) in _ZERO_IN_LOG.items()
    ),
    Fault(_LOGS, at_zero, "log of 0", _CLAMPED_LOG),
    Fault(
        _LOGS,
        of_negative,
        "log of {x}, a negative number",
        f"{_CLAMPED_LOG}, or F.softplus where it has to be positive",
    ),
    Fault("xlogy", at_zero, "log of 0, times {a}", "torch.xlogy(x, y.clamp_min({small}))"),
    Fault(
        "sqrt", of_negative, "sqrt of {x}, a negative number", "torch.sqrt(x.clamp_min({small}))"
    ),
    Fault(
        "rsqrt", lambda bad: bad.last <= 0, "1 / sqrt of {x}", "torch.rsqrt(x.clamp_min({small}))"
    ),
    *(
        Fault(_DIVISIONS, at_zero, f"a division by {what}", advice, times + behind)
        for behind, (what, advice) in _DIVISORS.items()
        for times in ("", "mul ")
    ),
    Fault("reciprocal", at_zero, "1 / 0", _NO_ZERO),
    Fault("reciprocal", overflows, f"1 / {{x}} {_TOO_MUCH}", _NO_ZERO),
    Fault(_DIVISIONS, lambda bad: bad.first == bad.last == 0, "0 / 0", _LEFT_OUT),
    Fault(_DIVISIONS, at_zero, "{a} / 0", _NO_ZERO),
    Fault(_DIVISIONS, overflows, f"{{a}} / {{x}} {_TOO_MUCH}", _NO_ZERO),
    Fault("remainder fmod", at_zero, "the remainder of a division by 0", "y.clamp_min(1)"),
    Fault(
        "cosh sinh",
        overflows,
        f"{{op}} of {{x}} {_TOO_MUCH}",
        "x.clamp(-{top}, {top}).{op}(), or x.abs() + F.softplus(-2 * x.abs()) - math.log(2) for the"
        " log of a cosh",
    ),
    Fault(
        "exp exp2 expm1",
        overflows,
        f"{{op}} of {{x}} {_TOO_MUCH}",
        "x.clamp(max={top}).{op}(), or stay with logarithms (torch.logsumexp, F.log_softmax)",
    ),
    Fault(
        "pow",
        lambda bad: bad.first == 0 and bad.last < 0,
        "0 ** {x} is a division by 0",
        "torch.where(x == 0, 0, torch.where(x == 0, 1, x) ** p)",
    ),
    Fault(
        "pow",
        lambda bad: bad.first < 0 and bad.value == "nan",
        "({a}) ** {x}: a fractional power of a negative number",
        "x.clamp_min(0) ** p, or x.sign() * x.abs() ** p",
    ),
    *(
        Fault(ops, outside, f"{{op}} of {{x}}: it is defined {where}", advice)
        for ops, outside, where, advice in _DOMAINS
    ),
    Fault(
        "logit special_logit",
        lambda bad: bad.first <= 0 or bad.first >= 1,
        "logit of {a}: it is defined between 0 and 1",
        "torch.logit(x, eps={edge})",
    ),
    Fault(
        "lgamma digamma polygamma",
        lambda bad: bad.last <= 0,
        "{op} of {x}, where it has a pole",
        "x.clamp_min({small}) before it",
    ),
    Fault(
        _DEVIATIONS,
        lambda bad: of_finite(bad) and bad.elements == 1,
        "{op} of one element is 0 / 0: it divides by n - 1",
        "{op}(..., correction=0), or more than one element",
    ),
    Fault(
        f"{_MEANS} {_DEVIATIONS}",
        lambda bad: of_finite(bad) and bad.elements == 0,
        "{op} of no elements is 0 / 0: nothing is selected",
        "x[mask].sum() / mask.sum().clamp_min(1), or leave it out where the mask is empty",
    ),
    Fault(
        "nll_loss",
        lambda bad: of_finite(bad) and bad.value == "nan",
        "no target counts, each is ignored (ignore_index) or of a class of weight 0, and a mean of"
        " nothing is 0 / 0",
        'reduction="sum", over the number of targets that count, .clamp_min(1)',
    ),
    Fault(
        "ctc_loss",
        of_finite,
        "a target needs more steps than its input has (its length, and one more for each label"
        " that is repeated), so that no alignment fits",
        "longer inputs (fewer strides), or nn.CTCLoss(zero_infinity=True), which leaves it out",
    ),
    Fault(
        "weight_norm_interface",
        of_finite,
        "weight_norm divides by the norm of a weight, which is 0",
        "weights other than 0 before weight_norm is put on",
    ),
    Fault(
        "layer_norm group_norm",
        lambda bad: of_finite(bad) and bad.value == "nan",
        "the squares of what {op} gets are more than {format} holds ({most}), or all of it is equal"
        " and eps is 0",
        "smaller inputs, and an eps above 0",
    ),
    Fault(
        "linalg_solve_ex linalg_inv_ex",
        of_finite,
        "the matrix is singular, or next to it",
        "1e-6 * torch.eye(n) added to it",
    ),
    Fault(
        "slogdet logdet",
        of_finite,
        "the matrix is singular: its determinant is 0, whose log is -inf",
        "1e-6 * torch.eye(n) added to it, or a parametrisation that cannot be singular (LU)",
    ),
    Fault(
        "where",
        lambda bad: of_finite(bad) and bad.value == "nan",
        "where puts NaN in, as torch.logdet does for a determinant that is negative",
        "a number in its place; of a determinant torch.linalg.slogdet(x)[1], the log of its size",
    ),
    Fault(
        "masked_fill index_put fill full full_like new_full constant_pad_nd",
        lambda bad: of_finite(bad) and bad.value == "nan",
        "the NaN that {op} fills in is not taken out again before the loss",
        "0 in its place, and the filled positions kept out of the loss: loss[~mask].mean()",
    ),
    Fault(
        "mul",
        mixes,
        "0 * inf: a product with 0 does not take infinity out",
        "torch.where(mask, x, 0) in place of x * mask, torch.special.entr(p) in place of"
        " p * log(p)",
    ),
    Fault(
        "add sub rsub sum cumsum mean lerp",
        mixes,
        "inf - inf",
        "torch.finfo(x.dtype).min in place of -inf, or torch.where for what is left out",
    ),
    Fault(
        "masked_fill where full full_like fill scalar_tensor constant_pad_nd index_put",
        lambda bad: bad.taken == bad.value,
        "the infinity that {op} fills in is not taken out again before the loss",
        "keep the filled positions out of the loss: loss[~mask].mean()",
    ),
    Fault(
        "",
        lambda bad: overflows(bad) and bad.format == "float16",
        f"what {{op}} returns {_TOO_MUCH}",
        "float32 for this part (x.float()) or bfloat16, smaller inputs, or smaller weights",
    ),
    Fault(
        "pow square mul div add sub sum cumsum prod cumprod mean mm bmm addmm baddbmm addbmm mv dot"
        " convolution mkldnn_convolution linear linalg_vector_norm mse_loss addcmul addcdiv lerp"
        " layer_norm batch_norm group_norm std var",
        overflows,
        f"what {{op}} returns {_TOO_MUCH}",
        "standardised inputs, smaller weights, or a normalisation layer before it",
        certain=False,
    ),
    Fault(
        "",
        lambda bad: bad.during == "loss" and not of_finite(bad),
        "what the loss gets besides the model's outputs holds NaN or infinity: a target, a weight"
        " or a constant",
        "look at what it closes over; leave out what has no target: keep = y.isfinite()",
    ),
)
