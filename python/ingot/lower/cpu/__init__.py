"""CPU targets: schedules, the calling convention of generated functions, and code generation through LLVM."""
