# The CUDA kernels, which the runtime loads where there is a GPU (docs/cuda.md):
#
#   INGOT_BUILD_CUDA           target ingot_cuda: libingot_cuda.so by nvcc, with code for INGOT_CUDA_ARCHITECTURES
#   INGOT_BUILD_CUDA_EMULATED  target ingot_cuda_emulated: the same sources for the CPU, by the C++ compiler; needs CUDA's headers alone
#
# Each has a second library, ..._checks, with the kernels of tests/cuda/checks, which compare emulated instructions with those of a GPU.
option(INGOT_BUILD_CUDA "Build libingot_cuda (needs nvcc 12.8 or newer)" OFF)
option(INGOT_BUILD_CUDA_EMULATED "Build the CUDA kernels for the emulator that tests use (needs CUDA's headers)" OFF)
set(INGOT_CUDA_ARCHITECTURES "80-real;86-real;89-real;90a-real;90-virtual" CACHE STRING "GPU architectures, as CMake names them")
set(INGOT_CUDA_ONLY "" CACHE STRING "For development: the folders of kernels/cuda to build, with a failure in place of other kernels")
if(NOT INGOT_BUILD_CUDA AND NOT INGOT_BUILD_CUDA_EMULATED)
  return()
endif()

file(GLOB INGOT_CUDA_BASE CONFIGURE_DEPENDS kernels/cuda/*.cpp)
file(GLOB INGOT_CUDA_RUNTIME CONFIGURE_DEPENDS runtime/cuda/*.cpp runtime/cuda/*.cu)
list(APPEND INGOT_CUDA_BASE ${CMAKE_CURRENT_SOURCE_DIR}/runtime/src/dtype.cpp ${CMAKE_CURRENT_SOURCE_DIR}/runtime/src/error.cpp)
file(GLOB INGOT_CUDA_KERNELS CONFIGURE_DEPENDS kernels/cuda/*/*.cu)
file(GLOB INGOT_CUDA_CHECKS CONFIGURE_DEPENDS tests/cuda/checks/*.cu)
set(INGOT_CUDA_CHECKS_BASE ${CMAKE_CURRENT_SOURCE_DIR}/kernels/cuda/entry.cpp ${CMAKE_CURRENT_SOURCE_DIR}/kernels/cuda/tensor_map.cpp
  ${CMAKE_CURRENT_SOURCE_DIR}/runtime/src/dtype.cpp ${CMAKE_CURRENT_SOURCE_DIR}/runtime/src/error.cpp
  ${CMAKE_CURRENT_SOURCE_DIR}/tests/cuda/checks/registry.cpp)

if(INGOT_CUDA_ONLY)
  list(JOIN INGOT_CUDA_ONLY "|" only)
  list(FILTER INGOT_CUDA_KERNELS INCLUDE REGEX "/kernels/cuda/(${only})/")
  set(defined "")
  foreach(source ${INGOT_CUDA_KERNELS})
    file(READ ${source} text)
    string(APPEND defined "${text}")
  endforeach()
  file(READ kernels/cuda/registry.cpp text)
  string(REGEX MATCHALL "{\"[a-z0-9_]+\",[ \n]*(cuda::)?[A-Za-z0-9]+," rows "${text}")
  set(stubs "#include \"cuda/kernel.h\"\nnamespace ingot {\n")
  foreach(row ${rows})
    string(REGEX REPLACE ".*[ \n:]([A-Za-z0-9]+),$" "\\1" function "${row}")
    if(NOT defined MATCHES "void ${function}\\(CudaContext")
      set(stub "void ${function}(CudaContext&) { FailKernel(\"left out of this build by INGOT_CUDA_ONLY\"); }")
      if(row MATCHES "cuda::")
        set(stub "namespace cuda { ${stub} }")
      endif()
      string(APPEND stubs "${stub}\n")
    endif()
  endforeach()
  file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/cuda_left_out.cpp CONTENT "${stubs}}\n" @ONLY)
  list(APPEND INGOT_CUDA_BASE ${CMAKE_CURRENT_BINARY_DIR}/cuda_left_out.cpp)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS kernels/cuda/registry.cpp)
endif()

function(ingot_cuda_library target)
  set_target_properties(${target} PROPERTIES
    C_VISIBILITY_PRESET hidden CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  target_include_directories(${target} PRIVATE kernels runtime/src runtime/include)
  target_include_directories(${target} SYSTEM PRIVATE ${INGOT_DLPACK_INCLUDE_DIR} ${INGOT_CUDA_INCLUDE_DIR})
endfunction()

if(INGOT_BUILD_CUDA)
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  foreach(part "" _checks)
    if(part)
      add_library(ingot_cuda_checks SHARED EXCLUDE_FROM_ALL ${INGOT_CUDA_CHECKS_BASE} ${INGOT_CUDA_CHECKS})
    else()
      add_library(ingot_cuda SHARED ${INGOT_CUDA_BASE} ${INGOT_CUDA_KERNELS} ${INGOT_CUDA_RUNTIME})
    endif()
    ingot_cuda_library(ingot_cuda${part})
    set_target_properties(ingot_cuda${part} PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY Static
      CUDA_ARCHITECTURES "${INGOT_CUDA_ARCHITECTURES}")
    target_compile_options(ingot_cuda${part} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Werror>"
      "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Werror;-Werror=all-warnings>")
    target_link_libraries(ingot_cuda${part} PRIVATE CUDA::cudart_static ${CMAKE_DL_LIBS})
    target_link_options(ingot_cuda${part} PRIVATE -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL $<$<CONFIG:Release>:-s>)
  endforeach()
  # Beside libingot, which looks for it there.
  install(TARGETS ingot_cuda LIBRARY DESTINATION ${INGOT_INSTALL_LIBDIR})
endif()

if(INGOT_BUILD_CUDA_EMULATED)
  # CUDA's headers: those of a toolkit, or of NVIDIA's Python packages.
  find_package(Python3 QUIET COMPONENTS Interpreter)
  if(Python3_EXECUTABLE)
    execute_process(COMMAND ${Python3_EXECUTABLE} -c "import sysconfig; print(sysconfig.get_path('purelib'))"
      OUTPUT_VARIABLE site OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  find_path(INGOT_CUDA_INCLUDE_DIR cuda_bf16.h HINTS ENV CUDA_HOME ENV CUDA_PATH
    PATHS /usr/local/cuda /opt/cuda /usr/lib/cuda ${site}/nvidia/cu13 ${site}/nvidia/cuda_runtime PATH_SUFFIXES include REQUIRED)
  file(GLOB INGOT_CUDA_EMULATOR CONFIGURE_DEPENDS kernels/cuda/emulator/*.cpp)
  # An instruction that the emulator runs wrongly because a compiler merged or moved it would be hard to find: nothing clever here.
  set(INGOT_EMULATOR_FLAGS -DINGOT_EMULATE -O1 -fno-strict-aliasing -ffp-contract=off -ftrivial-auto-var-init=pattern -Wall -Wextra
    -Wno-unknown-pragmas -Wno-class-memaccess)
  add_library(ingot_cuda_emulator OBJECT ${INGOT_CUDA_EMULATOR})
  ingot_cuda_library(ingot_cuda_emulator)
  set_property(TARGET ingot_cuda_emulator PROPERTY POSITION_INDEPENDENT_CODE ON)
  target_compile_options(ingot_cuda_emulator PRIVATE ${INGOT_EMULATOR_FLAGS} -Werror)
  foreach(part "" _checks)
    set(wrapped "")
    if(part)
      set(sources ${INGOT_CUDA_CHECKS})
      set(base ${INGOT_CUDA_CHECKS_BASE})
    else()
      set(sources ${INGOT_CUDA_KERNELS})
      set(base ${INGOT_CUDA_BASE})
    endif()
    # A file for the C++ compiler around each .cu: as sources of ingot_cuda those are nvcc's.
    foreach(source ${sources})
      file(RELATIVE_PATH name ${CMAKE_CURRENT_SOURCE_DIR} ${source})
      string(REPLACE "/" "-" name ${name})
      file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/emulated/${name}.cpp CONTENT "#include \"cuda/launch.h\"\n#include \"${source}\"\n" @ONLY)
      list(APPEND wrapped ${CMAKE_CURRENT_BINARY_DIR}/emulated/${name}.cpp)
    endforeach()
    add_library(ingot_cuda_emulated${part} SHARED EXCLUDE_FROM_ALL ${base} ${wrapped} $<TARGET_OBJECTS:ingot_cuda_emulator>)
    ingot_cuda_library(ingot_cuda_emulated${part})
    target_compile_options(ingot_cuda_emulated${part} PRIVATE ${INGOT_EMULATOR_FLAGS})
    # Static shared memory is this library's thread-local memory, all of it: the C++ library stays outside. Its handlers of what these sanitizers
    # find are the emulator's.
    target_link_options(ingot_cuda_emulated${part} PRIVATE -Wl,-z,defs)
    target_link_libraries(ingot_cuda_emulated${part} PRIVATE ${CMAKE_DL_LIBS})
    if(INGOT_SANITIZE)
      target_compile_options(ingot_cuda_emulated${part} PRIVATE -fsanitize=${INGOT_SANITIZE} -fno-omit-frame-pointer -g)
      target_link_options(ingot_cuda_emulated${part} PRIVATE -fsanitize=${INGOT_SANITIZE})
    else()
      target_compile_options(ingot_cuda_emulated${part} PRIVATE -fsanitize=alignment,bounds)
    endif()
  endforeach()
endif()
