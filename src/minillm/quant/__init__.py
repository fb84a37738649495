"""Weights of fewer bits: what they cost in quality and gain in speed."""

from minillm.quant.evaluation import Comparison, Speed, compare, speeds

__all__ = ["Comparison", "Speed", "compare", "speeds"]
