"""Encoder-decoder models: translators and Whisper. ``directory.py`` exports one, ``families.py`` says which there are."""
