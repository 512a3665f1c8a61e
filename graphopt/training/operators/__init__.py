"""Operators computed in torch, a module for each family.

`registry` imports the others when an operator is first looked up; they import torch, as they hold
nothing but torch functions. Nothing else imports them, so that graphopt runs where torch is absent.
"""
