"""An estimator or a file goes in, a verified bundle comes out."""
