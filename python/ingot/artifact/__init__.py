"""The .ingot format: linking code images and writing files. Reading is the runtime's (runtime/src)."""
