"""Images -> logits: the DeiT family, convolutional teachers, weights in."""

from deitkit.models.adapt import start_from
from deitkit.models.base import ImageModel
from deitkit.models.deit import DeiT
from deitkit.models.deit_names import named_like, patch_size_for
from deitkit.models.factory import create_model, family_of, list_models, model_names_like
from deitkit.models.name_facts import NameFacts, name_facts
from deitkit.models.noise import ModelNoise
from deitkit.models.pos_embed import resize_pos_embed
from deitkit.models.quick_cnn import QuickCNN
from deitkit.models.regnet import RegNet
from deitkit.models.small_cnn import SmallCNN
from deitkit.models.summary import ModelCost, model_cost, summary_table
from deitkit.models.weights import WeightReport, load_weights

__all__ = [
    "DeiT",
    "ImageModel",
    "ModelCost",
    "ModelNoise",
    "NameFacts",
    "QuickCNN",
    "RegNet",
    "SmallCNN",
    "WeightReport",
    "create_model",
    "family_of",
    "list_models",
    "load_weights",
    "model_cost",
    "model_names_like",
    "name_facts",
    "named_like",
    "patch_size_for",
    "resize_pos_embed",
    "start_from",
    "summary_table",
]
