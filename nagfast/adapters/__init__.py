"""Drop-in scorers for other pipelines, one thin file per host."""
