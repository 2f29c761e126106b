"""Stands for Argos Translate, with one language pair, which needs no download."""
