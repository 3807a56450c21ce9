"""What other tools say of an observation: their published formulas with their default thresholds.

Most of them were made to watch a training. Here each sees one forward and one backward of a
network at its initialisation; what its formula cannot say then is named where it is left out.
Where a formula asks for an update it gets the first one of SGD with `LEARNING_RATE`.

Arithmetic with nan and inf is IEEE's, as in the originals: comparisons with nan are false, and a
gradient over zero is inf.
"""

from __future__ import annotations

from examples.study.peers.autotrainer import AUTOTRAINER
from examples.study.peers.deepchecker import DEEPCHECKER, DEEPCHECKER_ACROSS_LAYERS
from examples.study.peers.deepdiagnosis import DEEPDIAGNOSIS
from examples.study.peers.peer import Peer
from examples.study.peers.pytest_torch import PYTEST_TORCH
from examples.study.peers.sagemaker import SAGEMAKER
from examples.study.peers.torchmortem import TORCHMORTEM
from examples.study.peers.torchtest2 import TORCHTEST2
from examples.study.peers.traintools import TRAINTOOLS

PEERS: tuple[Peer, ...] = (
    AUTOTRAINER,
    DEEPDIAGNOSIS,
    DEEPCHECKER,
    DEEPCHECKER_ACROSS_LAYERS,
    SAGEMAKER,
    TORCHTEST2,
    PYTEST_TORCH,
    TORCHMORTEM,
    TRAINTOOLS,
)
