"""Recipes for `python train.py --config=configs/NAME.py`."""
