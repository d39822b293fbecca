"""A trained model with matrices of low rank: smaller, and near the model that it was."""

from __future__ import annotations

from state_core.checkpoint import load_tensors, model_tensors
from state_core.errors import ConfigError
from state_core.layers.factorised import factorise_linears
from state_core.pipeline import SOSM


def factorize(model: SOSM, rank: int) -> SOSM:
    """A copy of `model` whose layers' matrices are the best of `rank` (see `layers.factorised`).

    Matrices that two factors would not make smaller stay whole. The copy's configuration says
    `linear_rank`, so that it is saved, loaded and trained like any other model.
    ConfigError if the model is factorised already.
    """
    if model.config.linear_rank:
        raise ConfigError(
            f"the model is factorised already, with linear_rank = {model.config.linear_rank}"
        )
    factorised = type(model)(model.config.override({"linear_rank": rank}))
    whole = type(model)(model.config)
    load_tensors(whole, model_tensors(model), "the model to factorise")
    factorise_linears(whole.blocks, rank)
    load_tensors(factorised, model_tensors(whole), "the model to factorise")
    weight = model.embedding.codes.weight
    return factorised.to(weight.device, weight.dtype).train(model.training)
