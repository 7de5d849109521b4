// All steps of an LSTM in one launch: a block for each row, a thread for each gate.
//
// A step is a matrix of 512 x 128 times a vector, and waits for the step before: nothing but the time of one
// multiprocessor to read the matrix. Half of it lies in the threads' registers (64 of a thread's 128), half
// in shared memory, so that neither is full and no step reads it from elsewhere. Sums are in float32.

constexpr int HIDDEN = 128;
constexpr int GATES = 4 * HIDDEN;  // input, forget, cell, output: PyTorch's order
constexpr int QUADS = HIDDEN / 4;
constexpr int IN_REGISTERS = QUADS / 2;  // quads of a thread's row of the matrix; the rest is shared

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// given    [rows, steps, GATES]: of each gate, what the input and the biases contribute
// weights  [GATES, HIDDEN]
// states   [rows, steps, HIDDEN]
extern "C" __global__ void __launch_bounds__(GATES, 1)
lstm_steps(const float* __restrict__ given, const float* __restrict__ weights, float* __restrict__ states,
           int steps) {
  extern __shared__ float4 shared_weights[];  // [QUADS - IN_REGISTERS][GATES]
  __shared__ float4 hidden[QUADS];
  __shared__ float gates[GATES];
  const int gate = threadIdx.x;
  const float4* row = reinterpret_cast<const float4*>(weights) + gate * QUADS;
  float4 own[IN_REGISTERS];
#pragma unroll
  for (int quad = 0; quad < IN_REGISTERS; ++quad) own[quad] = row[quad];
  for (int quad = IN_REGISTERS; quad < QUADS; ++quad)
    shared_weights[(quad - IN_REGISTERS) * GATES + gate] = row[quad];
  if (gate < QUADS) hidden[gate] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  const float* in = given + size_t(blockIdx.x) * steps * GATES + gate;
  float* out = states + size_t(blockIdx.x) * steps * HIDDEN + gate;
  float cell = 0.0f;
  float next = steps > 0 ? *in : 0.0f;
  __syncthreads();

  for (int step = 0; step < steps; ++step) {
    float4 sum = make_float4(next, 0.0f, 0.0f, 0.0f);
    in += GATES;
    if (step + 1 < steps) next = *in;  // under way while this step is computed
#pragma unroll
    for (int quad = 0; quad < QUADS; ++quad) {
      const float4 h = hidden[quad];  // the same for all threads: one broadcast
      const float4 w =
          quad < IN_REGISTERS ? own[quad % IN_REGISTERS] : shared_weights[(quad - IN_REGISTERS) * GATES + gate];
      sum.x += w.x * h.x;
      sum.y += w.y * h.y;
      sum.z += w.z * h.z;
      sum.w += w.w * h.w;
    }
    gates[gate] = (sum.x + sum.y) + (sum.z + sum.w);
    __syncthreads();
    if (gate < HIDDEN) {
      const float kept = sigmoid(gates[HIDDEN + gate]) * cell;
      cell = kept + sigmoid(gates[gate]) * tanhf(gates[2 * HIDDEN + gate]);
      const float state = sigmoid(gates[3 * HIDDEN + gate]) * tanhf(cell);
      reinterpret_cast<float*>(hidden)[gate] = state;
      out[size_t(step) * HIDDEN] = state;
    }
    __syncthreads();
  }
}
