"""Relax → TIR → machine code, one folder for each kind of target, and the program that calls it."""
