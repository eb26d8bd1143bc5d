/* Ingot: run models that were compiled ahead of time. SPDX-License-Identifier: Apache-2.0
 *
 * This is the one public header of libingot: C11, opaque handles, status codes, DLPack tensors.
 *
 * Errors     Every function that can fail returns an ingot_status. When it is not INGOT_OK, ingot_last_error()
 *            returns, on the same thread, a sentence for a person: which file, node or input, what was found and
 *            what would work. No exception and no abort crosses this border. Out-parameters are untouched on error.
 * Ownership  Whoever creates a handle frees it. Freeing NULL does nothing. An ingot_session keeps what it needs of
 *            its ingot_model alive, and a model what it needs of its artifact, so handles may be freed in any order.
 * Threads    An ingot_artifact and an ingot_model are immutable and may be used from any thread at once.
 *            An ingot_session is for one thread at a time; a second concurrent call returns INGOT_ERROR_BUSY.
 * Strings    Strings returned through a handle live as long as the handle. All strings are UTF-8.
 *            Tensors of strings are explained at ingot_string.
 */
#ifndef INGOT_INGOT_H_
#define INGOT_INGOT_H_

#include <dlpack/dlpack.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define INGOT_API __attribute__((visibility("default")))
#else
#define INGOT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ingot_status {
  INGOT_OK = 0,
  INGOT_ERROR_INVALID_ARGUMENT = 1, /* a NULL handle, an index out of range, an unknown option */
  INGOT_ERROR_FILE = 2,             /* the file is missing or cannot be read */
  INGOT_ERROR_ARTIFACT = 3,         /* not an artifact, truncated, or a checksum does not match */
  INGOT_ERROR_VERSION = 4,          /* the artifact's format is newer or older than this library reads */
  INGOT_ERROR_TARGET = 5,           /* the artifact has no code that this machine can run: CPU, GPU, driver */
  INGOT_ERROR_INPUT = 6,            /* an input's name, rank, extent, dtype, device or layout is wrong */
  INGOT_ERROR_MEMORY = 7,           /* memory ran out */
  INGOT_ERROR_EXECUTION = 8,        /* a node of the model failed while running; the session can be used again */
  INGOT_ERROR_BUSY = 9,             /* the session is running on another thread */
  INGOT_ERROR_INTERNAL = 10         /* a defect of libingot: please report it */
} ingot_status;

/* An element of a tensor of strings: `size` bytes of UTF-8 at `data`, which need not end in a NUL and may be NULL if
 * size is 0. DLPack has no strings; here their type is {INGOT_STRING_CODE, INGOT_STRING_BITS, 1}, and `data` of the
 * DLTensor points at an array of ingot_string in row-major order.
 *
 * Of an input, ingot_session_set_input copies the array and borrows the bytes: they must stay alive and unchanged until
 * ingot_session_run returns. Bytes that are not UTF-8, and NULL with a size, are INGOT_ERROR_INPUT.
 *
 * Of an output, elements and bytes are one block of memory that belongs to it: what is borrowed is valid until the next
 * run, what is taken until its deleter is called. Outputs of strings cannot be bound. */
typedef struct ingot_string {
  const char* data;
  size_t size;
} ingot_string;
#define INGOT_STRING_CODE kDLOpaqueHandle
#define INGOT_STRING_BITS 128

typedef struct ingot_artifact ingot_artifact; /* an opened, checked file; nothing of it runs */
typedef struct ingot_model ingot_model;       /* code and weights, mapped; immutable */
typedef struct ingot_session ingot_session;   /* the mutable part: scratch memory and outputs */

/* The message of the last error on this thread; "" if there was none. Valid until the next call on this thread. */
INGOT_API const char* ingot_last_error(void);
/* A short name of a status, such as "INGOT_ERROR_INPUT". Never NULL. */
INGOT_API const char* ingot_status_name(ingot_status status);
/* The version of this library, such as "0.1.0". */
INGOT_API const char* ingot_version(void);

/* ---- Artifacts: look into a file without running anything of it ------------------------------------------- */

/* Opens a file and checks its header, segment table and manifest. Works for artifacts of any target. */
INGOT_API ingot_status ingot_artifact_open(const char* path, ingot_artifact** out);
INGOT_API void ingot_artifact_free(ingot_artifact* artifact);
/* The JSON manifest (docs/format.md). *json is NUL-terminated and lives as long as the artifact. */
INGOT_API ingot_status ingot_artifact_manifest(const ingot_artifact* artifact, const char** json, size_t* size);
/* Recomputes the checksum of every byte of the file; names the first segment or weight that differs. */
INGOT_API ingot_status ingot_artifact_verify(const ingot_artifact* artifact);
/* The mapped bytes of one segment, by its index in the segment table. They live as long as the artifact. */
INGOT_API ingot_status ingot_artifact_segment(const ingot_artifact* artifact, size_t index, const void** data,
                                              size_t* size);
/* The name of the target ("cpu:x86-64-v4") that ingot_model_load would choose on this machine. */
INGOT_API ingot_status ingot_artifact_best_target(const ingot_artifact* artifact, const char** name);

/* ---- Models ----------------------------------------------------------------------------------------------- */

typedef struct ingot_load_options {
  size_t struct_size; /* sizeof(ingot_load_options), so that options can be added later */
  int32_t threads;    /* threads for one run, the caller's included; 0: one for each core of the machine */
  int32_t verify;     /* nonzero: checksum the weights too (reads the whole file); code is always checked */
  const char* target; /* a target's name in the artifact; NULL: the best that this machine can run */
  int32_t device;     /* the number of the GPU for a CUDA target */
} ingot_load_options;

/* Loads a model. options may be NULL for the defaults. Weights are mapped, not read: loading takes milliseconds. For a
 * CUDA target they are copied to the GPU, once for all sessions; it needs libingot_cuda beside libingot (or where the
 * environment variable INGOT_CUDA_LIBRARY says) and a driver. Without these, an artifact that has code for the CPU too
 * is loaded for the CPU, unless options->target names its CUDA target. */
INGOT_API ingot_status ingot_model_load(const char* path, const ingot_load_options* options, ingot_model** out);
INGOT_API void ingot_model_free(ingot_model* model);

/* One input or output. shape[i] is the extent, or -1 where it is symbolic; dims[i] then names the symbol ("batch")
 * or holds the expression ("2*batch"); it is the decimal number for a fixed extent. */
typedef struct ingot_tensor_info {
  const char* name;
  DLDataType dtype;
  int32_t ndim;
  const int64_t* shape;
  const char* const* dims;
} ingot_tensor_info;

INGOT_API ingot_status ingot_model_num_inputs(const ingot_model* model, size_t* count);
INGOT_API ingot_status ingot_model_num_outputs(const ingot_model* model, size_t* count);
INGOT_API ingot_status ingot_model_input(const ingot_model* model, size_t index, ingot_tensor_info* out);
INGOT_API ingot_status ingot_model_output(const ingot_model* model, size_t index, ingot_tensor_info* out);
/* The manifest of the model's artifact, as ingot_artifact_manifest. It lives as long as the model. */
INGOT_API ingot_status ingot_model_manifest(const ingot_model* model, const char** json, size_t* size);
/* The target whose code was loaded, and the number of threads of one run. */
INGOT_API ingot_status ingot_model_target(const ingot_model* model, const char** name, int32_t* threads);
/* Where the model runs, and its states are: {kDLCPU, 0} or {kDLCUDA, number}. */
INGOT_API ingot_status ingot_model_device(const ingot_model* model, DLDevice* out);
/* Bytes of scratch memory that one run takes when the symbolic dimensions, in the manifest's order of "dims", have
 * these extents. Data-dependent tensors, which are allocated while running, are not counted. */
INGOT_API ingot_status ingot_model_memory(const ingot_model* model, const int64_t* dims, size_t num_dims,
                                          size_t* bytes);

/* ---- Sessions --------------------------------------------------------------------------------------------- */

INGOT_API ingot_status ingot_session_create(ingot_model* model, ingot_session** out);
INGOT_API void ingot_session_free(ingot_session* session);

/* Sets an input by index. The tensor must be on the CPU or on the model's GPU, C-contiguous, of the declared dtype and
 * rank, and aligned to its element size; its data is borrowed, not copied, and must stay alive and unchanged until
 * ingot_session_run returns. An input stays set for later runs until it is set again. Strings: see ingot_string. */
INGOT_API ingot_status ingot_session_set_input(ingot_session* session, size_t index, const DLTensor* tensor);
/* Has later runs write an output into the caller's memory, which must have the output's exact shape, until tensor is
 * NULL again. The memory must stay alive until then, or until the session is freed. */
INGOT_API ingot_status ingot_session_bind_output(ingot_session* session, size_t index, const DLTensor* tensor);
/* Runs the model once. Every input must have been set. */
INGOT_API ingot_status ingot_session_run(ingot_session* session);
/* Borrows an output of the last run: valid until the next run or until the session is freed. */
INGOT_API ingot_status ingot_session_output(const ingot_session* session, size_t index, const DLTensor** out);
/* Takes an output of the last run out of the session, without a copy: the caller owns it and calls its deleter,
 * which may happen after the session and the model are freed. It can be taken once a run. */
INGOT_API ingot_status ingot_session_take_output(ingot_session* session, size_t index, DLManagedTensorVersioned** out);
/* Turns per-step timing on or off. While on, each run adds its time for each step of the program's main function. */
INGOT_API ingot_status ingot_session_set_profiling(ingot_session* session, int32_t enabled);
/* The nanoseconds gathered for each step of the main function, in the manifest's order, and the number of runs they
 * were gathered over. nanoseconds has room for num_steps; *needed is the number of steps. */
INGOT_API ingot_status ingot_session_profile(const ingot_session* session, int64_t* nanoseconds, size_t num_steps,
                                             size_t* needed, int64_t* runs);

/* ---- GPUs ------------------------------------------------------------------------------------------------- */

/* A session of a CUDA model puts its work on a stream: its own, or a cudaStream_t of the caller's, which must outlive
 * its use here. NULL is the session's own again; the legacy default stream is (void*)1, as in DLPack. Work that the
 * session has put on the stream before comes first. Inputs on the GPU are read, and outputs there written, in the order
 * of the stream. */
INGOT_API ingot_status ingot_session_set_stream(ingot_session* session, void* stream);
/* The stream that is in use; NULL for a model of the CPU. */
INGOT_API ingot_status ingot_session_stream(const ingot_session* session, void** stream);
/* Waits for all work of the session. ingot_session_run waits itself if an output is given on the CPU. Data that a step
 * on the GPU does not take (an index out of range, a step past a full cache) are INGOT_ERROR_EXECUTION from the call
 * that waits, or else from the session's next run. */
INGOT_API ingot_status ingot_session_synchronize(ingot_session* session);
/* Where later runs give an output that is not bound: {kDLCPU, 0}, as at first, or the model's GPU. If all outputs are
 * on the GPU, ingot_session_run returns while they are computed; inputs on the CPU have been read by then. */
INGOT_API ingot_status ingot_session_set_output_device(ingot_session* session, size_t index, DLDevice device);
/* Has work that is put on `stream` from now on wait for an output that was taken, and keeps the session from using its
 * memory again, after its deleter was called, before what is on the stream then. Does nothing for an output on the CPU.
 */
INGOT_API ingot_status ingot_output_wait(DLManagedTensorVersioned* output, void* stream);
/* Copies a taken output to memory of the CPU, and waits for it; num_bytes must be its size. */
INGOT_API ingot_status ingot_output_read(const DLManagedTensorVersioned* output, void* data, size_t num_bytes);
/* Runs that repeat the shapes and addresses of an earlier one are replayed as a CUDA graph, which the second such run
 * is captured as. How often runs were captured and replayed, and why the last one was not ("" if it was; valid until
 * the next call on this session). Pointers may be NULL. */
INGOT_API ingot_status ingot_session_graphs(const ingot_session* session, int64_t* captured, int64_t* replayed,
                                            const char** reason);

/* ---- States: what a session remembers from run to run ----------------------------------------------------- */

/* A state is a tensor that a run reads and leaves changed: a cache of keys and values, a hidden state. States are
 * neither inputs nor outputs. They start as zeros, before the first run or after ingot_session_reset; rows are their
 * axis 0, the batch. A failed run leaves carried states as they were. */
typedef enum ingot_state_kind {
  INGOT_STATE_CARRY = 0, /* an output of one run becomes an input of the next: hidden states, counters */
  INGOT_STATE_CACHE = 1, /* changed in place; a carried counter says how much of it is filled */
  INGOT_STATE_RING = 2   /* a cache of a fixed extent, in which new steps replace the oldest ones */
} ingot_state_kind;

INGOT_API ingot_status ingot_model_num_states(const ingot_model* model, size_t* count);
/* A state's name, type and shape, and its kind. out and kind may be NULL. */
INGOT_API ingot_status ingot_model_state(const ingot_model* model, size_t index, ingot_tensor_info* out,
                                         ingot_state_kind* kind);

/* Sets the extent of a symbolic dimension of the states: the capacity of caches, or more rows than one run has. Without
 * it, a dimension has the extent that the inputs of the first run give it, or else its bound, which the manifest has.
 */
INGOT_API ingot_status ingot_session_set_dimension(ingot_session* session, const char* name, int64_t extent);
/* Later runs see only rows first to first + count - 1; count 0: all rows again. */
INGOT_API ingot_status ingot_session_select_rows(ingot_session* session, int64_t first, int64_t count);
/* Forgets everything, or with row >= 0 what one row holds. */
INGOT_API ingot_status ingot_session_reset(ingot_session* session, int64_t row);
/* Keeps the first `length` steps of caches, in one row or with row -1 in all. */
INGOT_API ingot_status ingot_session_truncate(ingot_session* session, int64_t row, int64_t length);
/* Copies what one row holds to another row. */
INGOT_API ingot_status ingot_session_copy_row(ingot_session* session, int64_t from, int64_t to);
/* A new session of the same model that remembers the same; what is remembered is copied, inputs are not. */
INGOT_API ingot_status ingot_session_fork(const ingot_session* session, ingot_session** out);
/* Writes what is remembered to a file, and reads it into a session of the same artifact. */
INGOT_API ingot_status ingot_session_save_states(const ingot_session* session, const char* path);
INGOT_API ingot_status ingot_session_load_states(ingot_session* session, const char* path);
/* Borrows a state, all rows of it, until the next call on this session. Its data may be changed between runs. A CUDA
 * model's are on its GPU, where work on the session's stream may still write them. */
INGOT_API ingot_status ingot_session_state(ingot_session* session, size_t index, const DLTensor** out);
/* Copies a state, all rows of it, to memory of the CPU and back; num_bytes must be its size. */
INGOT_API ingot_status ingot_session_read_state(ingot_session* session, size_t index, void* data, size_t num_bytes);
INGOT_API ingot_status ingot_session_write_state(ingot_session* session, size_t index, const void* data,
                                                 size_t num_bytes);

/* ---- The machine ------------------------------------------------------------------------------------------ */

/* What this CPU can do, as JSON: architecture, instruction sets, caches in bytes, cores, and the targets it can run.
 * The string lives as long as the process. */
INGOT_API ingot_status ingot_machine(const char** json);
/* What a machine reached in many equal pieces of work: the best of them, and the one in the middle. */
typedef struct ingot_rate {
  double best;
  double median;
} ingot_rate;
/* Measures for so many seconds, at least one piece, the read bandwidth in GB/s (10^9 bytes) of memory beyond the
 * last-level cache, the fused multiply-add peak in GFLOP/s (f32), and the peaks of the fastest products of bfloat16 and
 * of bytes that are added up, in 10^9 operations a second (two for each product), with this number of threads.
 * INGOT_ISA limits the instructions. */
INGOT_API ingot_status ingot_measure_bandwidth(int32_t threads, double seconds, ingot_rate* rate);
INGOT_API ingot_status ingot_measure_fma(int32_t threads, double seconds, ingot_rate* rate);
INGOT_API ingot_status ingot_measure_bf16(int32_t threads, double seconds, ingot_rate* rate);
INGOT_API ingot_status ingot_measure_int8(int32_t threads, double seconds, ingot_rate* rate);
/* The library's kernels, as JSON: a list of objects with a name, what tensors and attributes it takes (contract), and
 * instruction_sets, those of its versions that this machine can run, worst first. INGOT_ISA limits them. Valid until
 * the calling thread asks again. */
INGOT_API ingot_status ingot_kernels(const char** json);

#ifdef __cplusplus
}
#endif
#endif /* INGOT_INGOT_H_ */
