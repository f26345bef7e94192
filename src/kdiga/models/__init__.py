"""Image classifiers with their normalisation inside: `build` one afresh, `load` one from where it is kept, `save` it.

MODELS is the contents page: every architecture by the form of its name. A builder knows no normalisation; `Classifier` adds it.
"""

from kdiga.models.build import MODELS, Builder, build
from kdiga.models.classifier import Classifier, parameter_count
from kdiga.models.info import ModelInfo
from kdiga.models.weights import check_trained, load, save

__all__ = ["MODELS", "Builder", "Classifier", "ModelInfo", "build", "check_trained", "load", "parameter_count", "save"]
