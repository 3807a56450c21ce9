"""Faults from published collections: AutoTrainer's, Stack Overflow's, TheDeepChecker's.

Keras's initialisations are rebuilt. Its softmax or sigmoid with a cross-entropy becomes logits with
PyTorch's, except where the output or the clipping of probabilities is what is wrong.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.nn import functional as F

from examples.study.faults.batches import (
    blobs,
    circles,
    digits,
    iris,
    pictures,
    prices,
    table,
    thirds,
    xor,
)
from examples.study.faults.losses import (
    keras_binary,
    keras_cross_entropy,
    one_hot_error,
    reconstruction_error,
)
from examples.study.faults.parts import (
    MEASURED,
    constant,
    digit_tower,
    exponential,
    fault,
    glorot,
    he,
    he_uniform,
    keras_normal,
    keras_uniform,
    lecun,
    lenet,
    normal,
    softmax,
    tower,
    wide_lenet,
)
from examples.study.network import Fault

AUTOTRAINER = "AutoTrainer (Zhang et al., ICSE 2021), {}, as listed by DeepDiagnosis (ICSE 2022)"
POST = "Stack Overflow {}, in DeepLocalize (Wardat et al., ICSE 2021)"
CHECKER = "TheDeepChecker (Ben Braiek and Khomh, TOSEM 2023), {}"


def autotrainer_faults() -> tuple[Fault, ...]:
    """Deep LeNets on digits, and towers five units wide on points in the plane."""
    blob = partial(fault, family="AutoTrainer", batch=blobs)
    circle = partial(
        fault, family="AutoTrainer", batch=circles, loss=F.binary_cross_entropy_with_logits
    )
    digit = partial(fault, family="AutoTrainer", batch=digits)
    to_three, to_one = (lambda n: (2, *[5] * n, 3)), (lambda n: (2, *[5] * n, 1))
    return (
        digit(
            "LeNet, 8 more sigmoid layers",
            source=AUTOTRAINER.format("MNIST model_2af630c4"),
            symptom="vanishing gradient, accuracy of guessing",
            remedy="ReLU",
            sick=partial(lenet, nn.Sigmoid, he, 8),
            cured=partial(lenet, nn.ReLU, he, 8),
        ),
        digit(
            "LeNet, 7 more sigmoid layers",
            source=AUTOTRAINER.format("MNIST model_44ae76ae"),
            symptom="vanishing gradient, accuracy of guessing",
            remedy="batch normalisation",
            sick=partial(lenet, nn.Sigmoid, he, 7),
            cured=partial(lenet, nn.ReLU, he, 7, norm=True),
        ),
        digit(
            "LeNet, 3 more sigmoid layers",
            source=AUTOTRAINER.format("MNIST, base network with fewer layers"),
            symptom="vanishing gradient, slow start",
            remedy="SELU",
            sick=partial(lenet, nn.Sigmoid, he, 3),
            cured=partial(lenet, nn.SELU, lecun, 3),
        ),
        digit(
            "LeNet, 17 ReLU layers, U(-.05, .05)",
            source=AUTOTRAINER.format("MNIST tmp_lenet5"),
            symptom="vanishing gradient and signal: weights too small",
            remedy="He initialisation",
            sick=partial(wide_lenet, keras_uniform),
            cured=partial(wide_lenet, he),
        ),
        digit(
            "34 ReLU layers, Glorot",
            source="AutoTrainer (Zhang et al., ICSE 2021), motivating example",
            symptom="vanishing gradient, slow",
            remedy="He initialisation",
            sick=partial(digit_tower, 128, 34, nn.ReLU, glorot),
            cured=partial(digit_tower, 128, 34, nn.ReLU, he),
        ),
        *(
            blob(
                f"blobs, {depth} {name} layers",
                source=AUTOTRAINER.format(f"Blob {model}"),
                symptom=symptom,
                remedy="SELU",
                sick=partial(tower, to_three(depth), activation, he_uniform),  # type: ignore[no-untyped-call]
                cured=partial(tower, to_three(depth), nn.SELU, lecun),  # type: ignore[no-untyped-call]
            )
            for model, depth, name, activation, symptom in (
                ("model_0b6f114d", 9, "exponential", exponential, "exploding gradient, NaN"),
                ("model_2569b90f", 11, "sigmoid", nn.Sigmoid, "vanishing gradient"),
                ("model_84c77206", 15, "narrow ReLU", nn.ReLU, "dying ReLU, in some seeds"),
            )
        ),
        *(
            circle(
                f"circles, {depth} {name} layers",
                source=AUTOTRAINER.format(f"Circle {model}"),
                symptom=symptom,
                remedy="SELU",
                sick=partial(tower, to_one(depth), activation, init),  # type: ignore[no-untyped-call]
                cured=partial(tower, to_one(depth), nn.SELU, lecun),  # type: ignore[no-untyped-call]
            )
            for model, depth, name, activation, init, symptom in (
                ("model_0eb8d545", 11, "exponential", exponential, he_uniform, "NaN"),
                ("model_5ab0aeda", 11, "sigmoid", nn.Sigmoid, he_uniform, "vanishing gradient"),
                ("model_8de47bdc", 8, "U(-.05, .05) ReLU", nn.ReLU, keras_uniform, "vanishing"),
                ("model_8e28bdef", 16, "narrow ReLU", nn.ReLU, he_uniform, "dying ReLU"),
            )
        ),
    )


def stack_overflow_faults() -> tuple[Fault, ...]:
    """Small networks that their authors asked about; data of the same shape."""
    post = partial(fault, family="Stack Overflow")
    alone = "softmax over one unit is always 1: no gradient"
    return (
        post(
            "softmax over one unit, 128-50-50-1 ReLU",
            source=POST.format(31880720),
            symptom=alone,
            remedy="sigmoid output",
            sick=partial(tower, (128, 50, 50, 1), nn.ReLU, glorot, dropout=0.2, output=softmax),
            cured=partial(tower, (128, 50, 50, 1), nn.ReLU, glorot, dropout=0.2, output=nn.Sigmoid),
            batch=partial(table, 128),
            loss=keras_binary,
        ),
        post(
            "softmax over one unit, tanh regression",
            source=POST.format(33969059),
            symptom=alone,
            remedy="linear output",
            sick=partial(
                tower, (20, 20, 2, 1), nn.Tanh, keras_uniform, dropout=0.5, output=softmax
            ),
            cured=partial(tower, (20, 20, 2, 1), nn.Tanh, keras_uniform, dropout=0.5),
            batch=partial(thirds, 20),
            loss=F.mse_loss,
        ),
        post(
            "softmax over one unit, XOR",
            source=POST.format(34311586),
            symptom=alone,
            remedy="sigmoid output; and Glorot's weights and tanh, without which the post's own "
            "remedy takes 10,000 epochs",
            sick=partial(tower, (2, 2, 3, 1), nn.Sigmoid, keras_uniform, output=softmax),
            cured=partial(tower, (2, 2, 3, 1), nn.Tanh, glorot, output=nn.Sigmoid),
            batch=xor,
            loss=F.mse_loss,
        ),
        post(
            "softmax over one unit, 1-60-50-1 ReLU",
            source=POST.format(45337371),
            symptom=alone,
            remedy="sigmoid output",
            sick=partial(tower, (1, 60, 50, 1), nn.ReLU, glorot, output=softmax),
            cured=partial(tower, (1, 60, 50, 1), nn.ReLU, glorot, output=nn.Sigmoid),
            batch=partial(table, 1),
            loss=keras_binary,
        ),
        post(
            "softmax over one unit, 1-1-1 sigmoid",
            source=POST.format(45442843),
            symptom=alone,
            remedy="sigmoid output and binary cross-entropy",
            sick=partial(tower, (1, 1, 1), nn.Sigmoid, keras_normal, output=softmax),
            cured=partial(tower, (1, 1, 1), nn.Sigmoid, keras_normal, output=nn.Sigmoid),
            batch=partial(table, 1),
            loss=F.l1_loss,
            cured_loss=keras_binary,
        ),
        post(
            "softmax over one unit, perceptron",
            source=POST.format("45378493, 58844149 and 42800203"),
            symptom=alone,
            remedy="sigmoid output",
            sick=partial(tower, (8, 12, 1), nn.ReLU, glorot, output=softmax),
            cured=partial(tower, (8, 12, 1), nn.ReLU, glorot, output=nn.Sigmoid),
            batch=partial(table, 8),
            loss=keras_binary,
        ),
        post(
            "784-30-10 linear, N(0, 1) and squared error",
            source=POST.format(48385830),
            symptom="loss of thousands, then infinite",
            remedy="sigmoid, cross-entropy, Glorot initialisation",
            sick=partial(tower, (784, 30, 10), nn.Identity, normal(1.0)),
            cured=partial(tower, (784, 30, 10), nn.Sigmoid, glorot),
            batch=digits,
            loss=one_hot_error,
            cured_loss=F.cross_entropy,
        ),
        post(
            "pixels up to 255, sigmoid output",
            source=POST.format(55328966),
            symptom="large gradient, NaN",
            remedy="pixels up to 1, softmax output",
            sick=partial(tower, (784, 784, 256, 10), nn.ReLU, glorot, output=nn.Sigmoid),
            cured=partial(tower, (784, 784, 256, 10), nn.ReLU, glorot),
            batch=partial(digits, 255.0),
            cured_batch=digits,
        ),
        post(
            "11-12-12-1 ReLU to the output, unscaled",
            source=POST.format(44066044),
            symptom="the output is dead in some seeds",
            remedy="scaled features, sigmoid output",
            sick=partial(tower, (11, 12, 12, 1), nn.ReLU, keras_normal, output=nn.ReLU),
            cured=partial(tower, (11, 12, 12, 1), nn.ReLU, keras_normal, output=nn.Sigmoid),
            batch=partial(table, 11, 100.0, 2.0),
            cured_batch=partial(table, 11),
            loss=keras_binary,
        ),
        post(
            "3-12-3-1 ReLU, U(-.05, .05), unscaled",
            source=POST.format(39525358),
            symptom="does not learn",
            remedy="standardised features",
            sick=partial(tower, (3, 12, 3, 1), nn.ReLU, keras_uniform, output=nn.Sigmoid),
            cured=partial(tower, (3, 12, 3, 1), nn.ReLU, keras_uniform, output=nn.Sigmoid),
            batch=partial(table, 3, 1000.0, 2.0),
            cured_batch=partial(table, 3),
            loss=keras_binary,
            out_of_reach=MEASURED.format(".33 with Adam", ".58"),
        ),
        post(
            "4-4-3 ReLU, sigmoid output, unscaled irises",
            source=POST.format("59278771 and 51930566"),
            symptom="slow; dead in some seeds",
            remedy="standardised features, softmax output",
            sick=partial(tower, (4, 4, 3), nn.ReLU, keras_normal, output=nn.Sigmoid),
            cured=partial(tower, (4, 4, 3), nn.ReLU, keras_normal),
            batch=partial(iris, scaled=False),
            cured_batch=partial(iris, scaled=True),
        ),
        post(
            "sigmoid autoencoder, N(0, .05)",
            source=POST.format(39217567),
            symptom="slow",
            remedy="ReLU, Glorot initialisation",
            sick=partial(tower, (784, 784, 784, 784), nn.Sigmoid, keras_normal, output=nn.Sigmoid),
            cured=partial(tower, (784, 784, 784, 784), nn.ReLU, glorot, output=nn.Sigmoid),
            batch=pictures,
            loss=reconstruction_error,
            out_of_reach=MEASURED.format(".019 with Adam", ".018"),
        ),
        post(
            "1-50-50-1 sigmoid and ELU, unscaled",
            source=POST.format(52800582),
            symptom="the loss does not fall: inputs saturate the sigmoids",
            remedy="standardised inputs and targets, ReLU",
            sick=partial(tower, (1, 50, 50, 1), nn.Sigmoid, glorot),
            cured=partial(tower, (1, 50, 50, 1), nn.ReLU, glorot),
            batch=partial(prices, 100.0, 300.0),
            cured_batch=partial(prices, 1.0, 0.0),
            loss=F.mse_loss,
        ),
        post(
            "12 narrow layers, unscaled regression",
            source=POST.format(46995209),
            symptom="the output is constant",
            remedy="fewer layers, standardised data",
            sick=partial(tower, (10, 10, 90, *[10] * 10, 1), nn.ReLU, keras_normal),
            cured=partial(tower, (10, 25, 10, 1), nn.ReLU, glorot),
            batch=partial(table, 10, 100.0, 2.0),
            cured_batch=partial(table, 10),
            loss=F.mse_loss,
        ),
    )


def checker_faults() -> tuple[Fault, ...]:
    """Initialisations and activations of TheDeepChecker's synthetic networks, and alike."""
    digit = partial(fault, family="initialisation", batch=digits)
    same = "all units of a layer are the same"
    answer = "Stack Overflow 49433936, initialising weights in PyTorch: {}"
    return (
        digit(
            "constant weights of .01",
            source=CHECKER.format("synthetic, constant initialisation"),
            symptom=same,
            remedy="He initialisation",
            sick=partial(digit_tower, 128, 5, nn.ReLU, constant(0.01)),
            cured=partial(digit_tower, 128, 5, nn.ReLU, he),
        ),
        digit(
            "softmax between the layers",
            source=CHECKER.format("synthetic, activation misuse"),
            symptom="vanishing gradient",
            remedy="ReLU",
            sick=partial(digit_tower, 128, 3, softmax, glorot),
            cured=partial(digit_tower, 128, 3, nn.ReLU, he),
        ),
        digit(
            "784-500-500-500-10 ReLU, N(0, 1), clipped cross-entropy",
            source=CHECKER.format("IPS_4"),
            symptom="probabilities of 0 and 1, which the clipping leaves no gradient",
            remedy="He initialisation",
            sick=partial(digit_tower, 500, 3, nn.ReLU, normal(1.0), output=softmax),
            cured=partial(digit_tower, 500, 3, nn.ReLU, he, output=softmax),
            loss=keras_cross_entropy,
        ),
        digit(
            "784-500-500-500-10 ReLU, N(0, 1), logits",
            source=CHECKER.format("IPS_4"),
            symptom="exploding gradient",
            remedy="He initialisation",
            sick=partial(digit_tower, 500, 3, nn.ReLU, normal(1.0)),
            cured=partial(digit_tower, 500, 3, nn.ReLU, he),
        ),
        digit(
            "784-512-10 sigmoid, N(0, 1)",
            source=CHECKER.format("IPS_7"),
            symptom="saturated units, initial loss of 13",
            remedy="Glorot initialisation",
            sick=partial(digit_tower, 512, 1, nn.Sigmoid, normal(1.0)),
            cured=partial(digit_tower, 512, 1, nn.Sigmoid, glorot),
            out_of_reach=MEASURED.format(".002 with Adam", ".011"),
        ),
        digit(
            "784-500-500-500-10 sigmoid, N(0, 1)",
            source=CHECKER.format("synthetic, N(0, 1) initialisation"),
            symptom="saturated units",
            remedy="Glorot initialisation and tanh",
            sick=partial(digit_tower, 500, 3, nn.Sigmoid, normal(1.0)),
            cured=partial(digit_tower, 500, 3, nn.Tanh, glorot),
            out_of_reach=MEASURED.format(".0001 with Adam", ".0001"),
        ),
        digit(
            "weights of zero",
            source=answer.format("all zeros"),
            symptom=same,
            remedy="uniform within 1 / sqrt(fan-in)",
            sick=partial(digit_tower, 256, 2, nn.ReLU, constant(0.0)),
            cured=partial(digit_tower, 256, 2, nn.ReLU),
        ),
        digit(
            "weights of one",
            source=answer.format("all ones"),
            symptom=same,
            remedy="uniform within 1 / sqrt(fan-in)",
            sick=partial(digit_tower, 256, 2, nn.ReLU, constant(1.0)),
            cured=partial(digit_tower, 256, 2, nn.ReLU),
        ),
        digit(
            "weights from torch.rand",
            source=answer.format("uniform between 0 and 1"),
            symptom="positive weights: huge outputs",
            remedy="uniform within 1 / sqrt(fan-in)",
            sick=partial(digit_tower, 256, 2, nn.ReLU, nn.init.uniform_),
            cured=partial(digit_tower, 256, 2, nn.ReLU),
        ),
        fault(
            "784-512-512-10 tanh, pixels up to 255",
            family="unscaled inputs",
            source=CHECKER.format("synthetic, missing normalisation"),
            symptom="saturated units",
            remedy="pixels up to 1",
            sick=partial(digit_tower, 512, 2, nn.Tanh, glorot),
            cured=partial(digit_tower, 512, 2, nn.Tanh, glorot),
            batch=partial(digits, 255.0),
            cured_batch=digits,
            out_of_reach=MEASURED.format(".0002 with Adam", ".0002"),
        ),
        fault(
            "table with features up to 10^6",
            family="unscaled inputs",
            source=CHECKER.format("synthetic, missing normalisation"),
            symptom="one feature drowns the others",
            remedy="standardised features",
            sick=partial(tower, (10, 64, 64, 1), nn.ReLU, he),
            cured=partial(tower, (10, 64, 64, 1), nn.ReLU, he),
            batch=partial(table, 10, 1e6),
            cured_batch=partial(table, 10),
            loss=F.binary_cross_entropy_with_logits,
        ),
    )
