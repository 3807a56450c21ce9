"""What is wrong where an operation of a forward or a loss is the first to make NaN or infinity."""

from __future__ import annotations

from pytest_gradhealth.rules.fault import (
    Fault,
    first_is,
    last_is,
    negative_last,
    overflows,
    overflows_half,
    takes,
    took,
    zero_last,
)

_CLAMPED_LOG = "torch.log(x.clamp_min(1e-8))"
_LOGS = "log log2 log10"
_DIVISIONS = "div true_divide reciprocal"
_MEANS = "mean mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy"
_DEVIATIONS = "std var std_mean var_mean"

FORWARD = (
    Fault(
        "softmax log_softmax scaled_dot_product_attention",
        took("-inf"),
        "softmax over a row that is all -inf is 0 / 0: every position of it is masked",
        "leave one position of each row unmasked, or fill in torch.finfo(x.dtype).min, not -inf",
    ),
    Fault(
        _LOGS,
        zero_last,
        "log of 0: all that is summed up has rounded to 0",
        "torch.logsumexp(x, -1) in place of the log of a sum of exp(x)",
        behind="sum exp",
    ),
    Fault(
        _LOGS,
        zero_last,
        "log of 0: softmax has rounded to 0",
        f"F.log_softmax(x, -1) in place of the log of a softmax, or {_CLAMPED_LOG}",
        behind="softmax",
    ),
    Fault(
        _LOGS,
        zero_last,
        "log of 0: a sigmoid has rounded to 0 or 1",
        "F.logsigmoid(x) for the log of a sigmoid, F.logsigmoid(-x) for that of 1 - sigmoid, or a"
        " loss on logits",
        behind="sigmoid",
    ),
    Fault(
        _LOGS,
        zero_last,
        "log of 0: 1 - tanh(x) ** 2 has rounded to 0",
        "2 * (math.log(2) - x - F.softplus(-2 * x)), which is its log",
        behind="rsub pow tanh",
    ),
    Fault(
        _LOGS,
        zero_last,
        "log of 0: a product of many factors has rounded to 0",
        "the sum of the logs in place of the log of a product",
        behind="prod",
    ),
    Fault(_LOGS, zero_last, "log of 0", _CLAMPED_LOG),
    Fault(
        _LOGS,
        negative_last,
        "log of {a}, a negative number",
        f"{_CLAMPED_LOG}, or F.softplus where it has to be positive",
    ),
    Fault(
        "log1p",
        last_is(lambda x: x <= -1),
        "log1p of {a}: it is defined above -1",
        "torch.log1p(x.clamp_min(-1 + 1e-6))",
    ),
    Fault(
        "xlogy special_xlog1py",
        zero_last,
        "log of 0, times {a}",
        "torch.xlogy(x, y.clamp_min(1e-8))",
    ),
    Fault("sqrt", negative_last, "sqrt of {a}, a negative number", "torch.sqrt(x.clamp_min(1e-8))"),
    Fault(
        "rsqrt",
        last_is(lambda x: x <= 0),
        "1 / sqrt of {a}",
        "torch.rsqrt(x.clamp_min(1e-8))",
    ),
    Fault(
        _DIVISIONS,
        zero_last,
        "a division by the norm of a zero vector",
        "F.normalize(x, dim=-1), or add 1e-8 to the norm",
        behind="linalg_vector_norm",
    ),
    *(
        Fault(
            _DIVISIONS,
            zero_last,
            "a division by a standard deviation of 0: all numbers are equal",
            "(x - x.mean()) / (x.std() + 1e-8)",
            behind=name,
        )
        for name in ("std", "var")
    ),
    Fault(
        _DIVISIONS,
        zero_last,
        "a division by a sum that is 0, as of an empty mask or of a node without neighbours",
        "x.sum() / mask.sum().clamp_min(1), or add 1e-8 to the sum",
        behind="sum",
    ),
    Fault(
        "reciprocal",
        zero_last,
        "1 / 0",
        "1 / y.clamp_min(1e-8), or add 1e-8 to what is below the bar",
    ),
    Fault(
        _DIVISIONS,
        zero_last,
        "{a} / {b}",
        "x / y.clamp_min(1e-8), or add 1e-8 to what is below the bar",
    ),
    Fault(
        _DIVISIONS,
        overflows,
        "{a} / {b} is more than {format} holds ({most})",
        "x / y.clamp_min(1e-8), or add 1e-8 to what is below the bar",
    ),
    Fault("remainder fmod", zero_last, "the remainder of a division by 0", "y.clamp_min(1)"),
    Fault(
        "exp exp2 expm1 sinh cosh",
        overflows_half,
        "{op} of {a} is more than {format} holds ({most})",
        "x.clamp(max=10).exp(), or float32 for it: x.float().exp()",
    ),
    Fault(
        "exp exp2 expm1 sinh cosh",
        overflows,
        "{op} of {a} is more than {format} holds ({most})",
        "x.clamp(max=20).exp(), or stay with logarithms (torch.logsumexp, F.log_softmax)",
    ),
    Fault(
        "pow",
        lambda bad: first_is(lambda x: x == 0)(bad) and negative_last(bad),
        "0 ** {b} is a division by 0",
        "x.clamp_min(1e-8) ** p",
    ),
    Fault(
        "pow",
        lambda bad: first_is(lambda x: x < 0)(bad) and bad.value == "nan",
        "({a}) ** {b}: a fractional power of a negative number",
        "x.clamp_min(0) ** p, or x.sign() * x.abs() ** p",
    ),
    Fault(
        "acos asin arccos arcsin",
        last_is(lambda x: abs(x) > 1),
        "{op} of {a}: it is defined from -1 to 1",
        "x.clamp(-1 + 1e-6, 1 - 1e-6) before it",
    ),
    Fault(
        "atanh arctanh erfinv special_erfinv",
        last_is(lambda x: abs(x) >= 1),
        "{op} of {a}: it is defined between -1 and 1",
        "x.clamp(-1 + 1e-6, 1 - 1e-6) before it",
    ),
    Fault(
        "acosh arccosh",
        last_is(lambda x: x < 1),
        "{op} of {a}: it is defined from 1 on",
        "x.clamp_min(1 + 1e-6) before it",
    ),
    Fault(
        "logit special_logit",
        first_is(lambda x: not 0 < x < 1),
        "logit of {a}: it is defined between 0 and 1",
        "torch.logit(x, eps=1e-6)",
    ),
    Fault(
        "lgamma digamma polygamma mvlgamma",
        last_is(lambda x: x <= 0),
        "{op} of {a}, where it has a pole",
        "x.clamp_min(1e-8) before it",
    ),
    Fault(
        _DEVIATIONS,
        takes([1]),
        "{op} of one element is 0 / 0: it divides by n - 1",
        "{op}(..., correction=0), or more than one element",
    ),
    Fault(
        f"{_MEANS} {_DEVIATIONS}",
        takes([0]),
        "{op} of no elements is 0 / 0: nothing is selected",
        "x[mask].sum() / mask.sum().clamp_min(1), or leave it out where the mask is empty",
    ),
    Fault(
        "nll_loss",
        lambda bad: not bad.taken and bad.value == "nan",
        "every target is ignored (ignore_index), and a mean of nothing is 0 / 0",
        'reduction="sum", over (targets != ignore_index).sum().clamp_min(1)',
    ),
    Fault(
        "ctc_loss",
        took(""),
        "a target needs more steps than its input has (its length, and one more for each label"
        " that is repeated), so that no alignment fits",
        "longer inputs (fewer strides), or nn.CTCLoss(zero_infinity=True), which leaves it out",
    ),
    Fault(
        "slogdet logdet",
        took(""),
        "the matrix is singular: its determinant is 0, whose log is -inf",
        "1e-6 * torch.eye(n) added to it, or a parametrisation that cannot be singular (LU)",
    ),
    Fault(
        "mul",
        lambda bad: bad.taken != "" and bad.value == "nan",
        "0 * inf: a product with 0 does not take infinity out",
        "torch.where(mask, x, 0) in place of x * mask, torch.special.entr(p) in place of"
        " p * log(p)",
    ),
    Fault(
        "add sub rsub sum cumsum mean",
        lambda bad: bad.taken != "" and bad.value == "nan",
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
        overflows_half,
        "what {op} returns is more than float16 holds (6.6e+04)",
        "float32 for this part (x.float()) or bfloat16, smaller inputs, or smaller weights",
    ),
    Fault(
        "pow square mul div add sub sum cumsum prod cumprod mean mm bmm addmm baddbmm addbmm mv dot"
        " convolution mkldnn_convolution linear linalg_vector_norm mse_loss addcmul addcdiv lerp"
        " layer_norm batch_norm group_norm std var",
        overflows,
        "what {op} returns is more than {format} holds ({most})",
        "standardised inputs, smaller weights, or a normalisation layer before it",
    ),
)
