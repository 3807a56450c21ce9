"""Code as it is printed: it says where it goes and runs there, given nothing but `model`."""

from __future__ import annotations

import re

ONCE = "# once, where `model` has been built, before its optimizer is"
STEP = "# in the training step, between loss.backward() and optimizer.step()"
LOSS = "# in the training step, between the loss and loss.backward()"
MAKER = "# in place of your optimizer, once `model` has been built"
MADE = "# once, where `optimizer` has been built"


def printed(code: str, where: str = ONCE) -> str:
    """Return code with the place where it goes, and what it imports."""
    imports = []
    if re.search(r"(?<![\w.])torch\.", code):
        imports.append("import torch")
    if re.search(r"(?<![\w.])nn\.", code):
        imports.append("from torch import nn")
    return "\n".join([where, *imports, code])
