"""The command line: ``ingot compile | run | inspect | verify | bench | doctor``, one file for each command."""
