"""A version at work: in MLflow's pyfunc, behind `moola serve`, on a file."""
