"""Other places where a run is told of, beside its folder."""
