"""Weights of fewer bits: what they cost in quality and gain in speed."""

from minillm.quant.evaluation import Comparison, Evaluation, compare, evaluate

__all__ = ["Comparison", "Evaluation", "compare", "evaluate"]
