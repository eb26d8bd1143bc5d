# Finds dlpack/dlpack.h, which is part of the C ABI: INGOT_DLPACK_INCLUDE_DIR if it is given, else the copy inside the
# apache-tvm-ffi package of the Python that builds.
if(NOT INGOT_DLPACK_INCLUDE_DIR)
  find_package(Python COMPONENTS Interpreter QUIET)
  if(Python_FOUND)
    execute_process(
      COMMAND ${Python_EXECUTABLE} -c
        "import importlib.util, pathlib; s = importlib.util.find_spec('tvm_ffi'); print(next((p.parent.parent for p in sorted(pathlib.Path(s.origin).parent.rglob('dlpack/dlpack.h'))), '') if s else '')"
      OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(found)
      set(INGOT_DLPACK_INCLUDE_DIR ${found} CACHE PATH "" FORCE)
    endif()
  endif()
endif()
if(NOT EXISTS "${INGOT_DLPACK_INCLUDE_DIR}/dlpack/dlpack.h")
  message(FATAL_ERROR "dlpack/dlpack.h was not found: install the Python package apache-tvm-ffi, or give -DINGOT_DLPACK_INCLUDE_DIR=<folder that holds dlpack/>")
endif()
