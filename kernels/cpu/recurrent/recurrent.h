// A recurrent layer over a whole sequence (ONNX RNN, LSTM, GRU): what follows the product of inputs and input weights.
//
// T time steps, B batch, D directions, H hidden units, G gates: 1 (RNN), 4 (LSTM: i, o, f, c), 3 (GRU: z, r, h). Units
// are packed by kLanes = 8: P is H rounded up, N = P / 8; what pads is zero.
//
// inputs   projected [T, B, D N G 8]: x W + Wb + Rb, (but without Rb of h for GRU with linear_before_reset), gates of
//            eight units together
//          weights [D, N H G 8]: R so that a product with it reads it in order: row k of a block is what unit k gives
//            the gates of the block's eight units. For GRU without linear_before_reset: [N H 2 8] of z and r, then
//            [N H 1 8] of h. Of bfloat16 two k of a gate and unit are side by side, [D, N K / 2 G 8, 2], where K is H
//            rounded up to a multiple of 32 by zeros
//          then, all optional:
//          reset_bias [D, P]: Rb of h, for GRU with linear_before_reset
//          peepholes [D, 3, P]: i, o, f, for LSTM
//          initial_h [D, B, H], initial_c [D, B, H]: 0 if they are left out
//          sequence_lens: int32 [B], T if they are left out
// ints     cell (0 RNN, 1 LSTM, 2 GRU, 3 GRU with linear_before_reset), reversed (bit d: direction d runs backwards),
//          input_forget, then three activations for each of two directions (enum Activation)
// floats   bound of the gates' arguments, 0 for none; then alpha and beta of each of the six activations
// outputs  Y [T, D, B, H], Y_h [D, B, H], and for LSTM Y_c [D, B, H]; Y is 0 after the end of a sequence
// errors   a sequence length outside [0, T]
//
// All tensors are float32, or all float64; beside float32 the weights may be float16 or bfloat16.
#pragma once

#include "kernel.h"

namespace ingot {
void Recurrent(KernelContext& context);
#if defined(__x86_64__)
void RecurrentAvx2(KernelContext& context);
void RecurrentAvx512(KernelContext& context);
void RecurrentAmx(KernelContext& context);
#elif defined(__aarch64__)
void RecurrentNeon(KernelContext& context);
#endif
}  // namespace ingot
