"""Hyperparameter search. Knows trainings and their dev values; must not know test queries, serving or printing."""
