"""DEFault++'s learned diagnosis of a fine-tuning, with the weights that its package brings."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from examples.study.network import Network
from examples.study.tools.tool import NotApplicableError, Said, Tool

#: Of the fine-tuning that it watches: epochs of steps on the one batch there is, and the rate that
#: `transformers.TrainingArguments` has.
EPOCHS, STEPS, RATE = 2, 4, 5e-5


def run(network: Network, seed: int, _scale: float) -> list[Said]:
    """Train a transformer of Hugging Face for a few steps and let it say what is wrong.

    Raises NotApplicableError for other networks.
    """
    from defaultplusplus import FeatureExtractor
    from defaultplusplus.diagnosis import load_pretrained
    from defaultplusplus.processing import RuntimeNormalizer

    torch.manual_seed(seed)
    model = network.build().train()
    inputs, _ = network.batch()
    if network.loss is not None or not isinstance(inputs, Mapping) or "labels" not in inputs:
        raise NotApplicableError("it watches transformers of Hugging Face that have a loss")
    try:
        watching = FeatureExtractor(model)
    except (ValueError, TypeError, AttributeError) as error:
        raise NotApplicableError(str(error)) from None
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    with watching:
        for epoch in range(EPOCHS):
            for _ in range(STEPS):
                outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
                outputs.loss.backward()
                optimizer.step()
                watching.step(
                    loss=outputs.loss,
                    outputs=outputs,
                    optimizer=optimizer,
                    step_time=0.1,
                    input_ids=inputs.get("input_ids"),
                    labels=inputs["labels"],
                    attention_mask=inputs.get("attention_mask"),
                )
                optimizer.zero_grad()
            watching.epoch_end(epoch)
        features = watching.finalize()
    encoded = RuntimeNormalizer.load(watching.arch).encode(features, mode="raw")
    found = load_pretrained(watching.arch).predict(encoded)
    return [Said(str(found.category), "error")] if found.is_faulty else []


TOOL = Tool(
    "DEFault++",
    "defaultplusplus",
    "0.4.1",
    "a few steps of a transformer of Hugging Face, by the weights that it brings",
    run,
    sets=("healthy",),
)
