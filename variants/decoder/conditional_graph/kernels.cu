// The body of a CUDA graph's conditional WHILE node: one iteration of a greedy TDT search.
//
//   begin                                       once: fill the slots, forget the candidates
//   WHILE an utterance is active:
//     evaluate_joint    8198 outputs for every slot's window of frames, best candidates by atomic maximum
//     advance           walk the windows, decide whether to go round again, finish layer 0 of new labels
//     upper_layer       layers above, and W_hh h of the layer below for the next label
//     project           prediction projected for the joint, and W_hh h of the top layer
//
// Four dependent launches an iteration, all by the device. A kernel whose work is empty (no label in any
// window) ends at once: an IF node around the last two would cost more than it saves. Weights come from
// L2 each time: 21 MB an iteration at batch 1, about 5 us of the iteration at 4 to 5 TB/s.
// Every size that varies between calls is read from `Call` in device memory, so the graph is captured once;
// the work follows the number of active slots.
#include "tdt.cuh"

#ifdef __CUDACC_RTC__
typedef unsigned long long cudaGraphConditionalHandle;
extern "C" __device__ __cudart_builtin__ void cudaGraphSetConditional(cudaGraphConditionalHandle handle,
                                                                      unsigned int value);
#endif

constexpr int kMatrices = 2 * LAYERS - 1;  // W_hh 0, then W_ih and W_hh of each layer above
constexpr int kMatrixFragments = 2 * kHiddenPairs * 2 * 32;
constexpr int kPredFragments = kHiddenPairs * 2 * 32;

struct Model {
    const uint4* joint;
    const float* joint_bias;
    const uint4* matrices;
    const float4* bias;
    const float4* label_gates;
    const uint4* pred;
    const float* pred_bias;
};

// The search between kernels. Control alternates, because every block of `advance` reads the last one.
struct Search {
    Control* control;   // [2]
    u32* best;          // [2, COLUMNS, 2] candidates: token, duration
    u16* hidden;        // [LAYERS, SLOTS, HIDDEN]
    u16* prediction;    // [SLOTS, JOINT]
    float4* recurrent;  // [LAYERS, SLOTS, HIDDEN] W_hh h + b, by gate
    float* cell;        // [LAYERS, SLOTS, HIDDEN]
    u32* iteration;     // [2] see below
};

// The number of the iteration picks the halves. No kernel reads the word that it writes: `advance` counts
// in iteration[1], which everything after it reads, and `evaluate_joint` copies it to iteration[0] for
// `advance` to read.
__device__ __forceinline__ const Control& current(const Search& search) {
    return search.control[search.iteration[1] & 1];
}

extern "C" __global__ void __launch_bounds__(kThreads) begin(const Batch* call, const Search search) {
    for (int i = threadIdx.x; i < 2 * COLUMNS * 2; i += kThreads) search.best[i] = 0;
    if (threadIdx.x < 2) search.iteration[threadIdx.x] = 0;
    if (threadIdx.x < 32) begin_control(search.control[0], *call);
}

__device__ __forceinline__ void load_column(uint4 (&states)[kJointPairsPerWarp], uint4 (&prediction)[kJointPairsPerWarp],
                                            const Search& search, const Batch& batch, const Control& c, int first) {
    const Column column = joint_column(c, batch, first);
    load_vector<kJointPairsPerWarp, kJointPairs>(states, column.states, column.valid);
    load_vector<kJointPairsPerWarp, kJointPairs>(prediction,
                                                 column.prediction ? search.prediction + (size_t)column.slot * JOINT
                                                                   : initial_row(batch, column.utterance) + kPredictionAt,
                                                 column.valid);
}

// grid: tiles of outputs
extern "C" __global__ void __launch_bounds__(kThreads, 1)
evaluate_joint(const Batch* call, const Search search, const Model model) {
    __shared__ float partial[WARPS * JOINT_TILES * 4 * 32];
    __shared__ float bias[JOINT_TILES * 16];
    __shared__ u32 best[16];
    const int first_tile = blockIdx.x * JOINT_TILES;
    uint4 weights[JOINT_TILES][kJointPairsPerWarp][2];
    load_joint_weights(weights, model.joint, first_tile);
    for (int i = threadIdx.x; i < JOINT_TILES * 16; i += kThreads) bias[i] = model.joint_bias[first_tile * 16 + i];
    if (threadIdx.x < 16) best[threadIdx.x] = 0;

    const Batch& batch = *call;
    const Control& c = current(search);
    u32* out = search.best + (search.iteration[1] & 1) * COLUMNS * 2;
    if (blockIdx.x == 0 && threadIdx.x == 0) search.iteration[0] = search.iteration[1];
    const int columns = column_count(c);
    uint4 states[kJointPairsPerWarp], prediction[kJointPairsPerWarp];
    load_column(states, prediction, search, batch, c, 0);
    __syncthreads();
    for (int first = 0; first < columns; first += 8) {
        uint4 x[kJointPairsPerWarp];
#pragma unroll
        for (int p = 0; p < kJointPairsPerWarp; ++p) x[p] = add_relu(states[p], prediction[p]);
        load_column(states, prediction, search, batch, c, first + 8);  // under way while this one is computed
        multiply_joint(partial, weights, x);
        __syncthreads();
        fold_candidates(partial, bias, first_tile, best);
        __syncthreads();
        if (threadIdx.x < 16) {
            const int of = first + (threadIdx.x & 7);
            if (of < columns && best[threadIdx.x]) atomicMax(out + of * 2 + threadIdx.x / 8, best[threadIdx.x]);
            best[threadIdx.x] = 0;
        }
    }
}

// grid: blocks of units. Every block walks the windows for itself; block 0 keeps the result.
extern "C" __global__ void __launch_bounds__(kThreads)
advance(const Batch* call, const Search search, const Model model, const cudaGraphConditionalHandle again) {
    __shared__ Control c;
    __shared__ u32 choices[COLUMNS];
    const u32 iteration = search.iteration[0];
    const u32* best = search.best + (iteration & 1) * COLUMNS * 2;
    const Batch& batch = *call;
    const u32* from = (const u32*)(search.control + (iteration & 1));
    for (int i = threadIdx.x; i < (int)(sizeof(Control) / 4); i += kThreads) ((u32*)&c)[i] = from[i];
    __syncthreads();
    for (int i = threadIdx.x; i < column_count(c); i += kThreads) choices[i] = make_choice(best[2 * i], best[2 * i + 1]);
    for (int i = threadIdx.x; i < c.assigned_count * kUnits * LAYERS; i += kThreads) {
        const int owned = blockIdx.x * kUnits + i % kUnits, layer = i / kUnits % LAYERS, slot = c.assigned[i / (kUnits * LAYERS)];
        const int utterance = c.slot[slot].utterance;
        const u16* row = initial_row(batch, utterance);
        u16* out = final_row(batch, utterance);
        const size_t at = ((size_t)layer * SLOTS + slot) * HIDDEN + owned;
        search.recurrent[at] = initial_recurrent(batch, utterance, layer)[owned];
        search.cell[at] = to_float(row[cell_at(layer) + owned]);
        out[hidden_at(layer) + owned] = row[hidden_at(layer) + owned];
        out[cell_at(layer) + owned] = row[cell_at(layer) + owned];
    }
    for (int at = kPredictionAt + blockIdx.x; at < kState; at += gridDim.x)
        for (int i = threadIdx.x; i < c.assigned_count; i += kThreads) {
            const int utterance = c.slot[c.assigned[i]].utterance;
            final_row(batch, utterance)[at] = initial_row(batch, utterance)[at];
        }
    __syncthreads();
    if (threadIdx.x < 32) advance_control(c, batch, choices, iteration + 1, blockIdx.x == 0);
    __syncthreads();
    for (int i = threadIdx.x; i < c.found_count * kUnits; i += kThreads) {
        const int owned = blockIdx.x * kUnits + i % kUnits;
        const Found f = c.found[i / kUnits];
        const size_t at = (size_t)f.slot * HIDDEN + owned;
        const float4 table = __ldg(model.label_gates + (size_t)f.label * HIDDEN + owned), prepared = search.recurrent[at];
        const u16 hidden = lstm_cell(make_float4(table.x + prepared.x, table.y + prepared.y, table.z + prepared.z,
                                                 table.w + prepared.w), search.cell[at]);
        search.hidden[at] = hidden;
        u16* state = final_row(batch, f.utterance);
        state[hidden_at(0) + owned] = hidden;
        state[cell_at(0) + owned] = to_16bit(search.cell[at]);
    }
    if (blockIdx.x != 0) return;
    u32* to = (u32*)(search.control + (~iteration & 1));
    for (int i = threadIdx.x; i < (int)(sizeof(Control) / 4); i += kThreads) to[i] = ((u32*)&c)[i];
    u32* next = search.best + (~iteration & 1) * COLUMNS * 2;
    for (int i = threadIdx.x; i < COLUMNS * 2; i += kThreads) next[i] = 0;
    if (threadIdx.x == 0) {
        search.iteration[1] = iteration + 1;
        cudaGraphSetConditional(again, c.active_count > 0);
        if (c.active_count == 0) report_run(c, batch);
    }
}

__device__ __forceinline__ void multiply_and_store(float* partial, const uint4* weights,
                                                   const uint4 (&x)[kHiddenPairsPerWarp]) {
    float acc[2][4] = {};
    multiply_hidden<2>(acc, weights, x);
    store_partial<2>(partial, acc);
}

__device__ __forceinline__ void load_hidden(uint4 (&x)[kHiddenPairsPerWarp], const Search& search, const Control& c,
                                            int layer, int first) {
    const int column = first + (threadIdx.x & 31) / 4;
    const int slot = c.found[column < c.found_count ? column : 0].slot;
    load_vector<kHiddenPairsPerWarp, kHiddenPairs>(x, search.hidden + ((size_t)layer * SLOTS + slot) * HIDDEN,
                                                   column < c.found_count);
}

// W_hh h + b of units `block`, kept for the next label. Called by all threads between two meetings.
__device__ __forceinline__ void keep_recurrent(const Search& search, const Model& model, const Control& c,
                                               const float* partial, int layer, int block, int first) {
    for (int i = threadIdx.x; i < 8 * 32; i += kThreads) {
        const int reg = i / 32, lane = i & 31, column = first + accumulator_column(reg, lane);
        if (column >= c.found_count) continue;
        const int owned = block * kUnits + lane / 4, gate = reg / 2;
        const float bias = layer ? ((const float*)(model.bias + layer * HIDDEN + owned))[gate] : 0.f;
        float4* kept = search.recurrent + ((size_t)layer * SLOTS + c.found[column].slot) * HIDDEN + owned;
        ((float*)kept)[gate] = sum_partial<2>(partial, reg, lane) + bias;
    }
}

__device__ __forceinline__ const uint4* matrix(const Model& model, int block, int index) {
    return model.matrices + ((size_t)block * kMatrices + index) * kMatrixFragments;
}

// grid: blocks of units, twice: the first half steps `layer`, the second prepares the layer below
extern "C" __global__ void __launch_bounds__(kThreads)
upper_layer(const Batch* call, const Search search, const Model model, const int layer) {
    __shared__ float partial[WARPS * 8 * 32];
    const Control& c = current(search);
    const bool prepares = blockIdx.x >= kUnitBlocks;
    const int block = prepares ? blockIdx.x - kUnitBlocks : blockIdx.x, count = c.found_count;
    const uint4* weights = matrix(model, block, prepares ? 2 * (layer - 1) : 2 * layer - 1);
    for (int first = 0; first < count; first += 8) {
        uint4 x[kHiddenPairsPerWarp];
        load_hidden(x, search, c, layer - 1, first);
        multiply_and_store(partial, weights, x);
        __syncthreads();
        if (prepares) keep_recurrent(search, model, c, partial, layer - 1, block, first);
        const int lane = threadIdx.x & 31, parity = threadIdx.x / 32;
        const int column = first + 2 * (lane & 3) + parity, owned = block * kUnits + lane / 4;
        if (!prepares && threadIdx.x < 64 && column < count) {
            const Found f = c.found[column];
            const size_t at = ((size_t)layer * SLOTS + f.slot) * HIDDEN + owned;
            const float4 prepared = search.recurrent[at];
            const float4 gates = make_float4(sum_partial<2>(partial, parity, lane) + prepared.x,
                                             sum_partial<2>(partial, 2 + parity, lane) + prepared.y,
                                             sum_partial<2>(partial, 4 + parity, lane) + prepared.z,
                                             sum_partial<2>(partial, 6 + parity, lane) + prepared.w);
            const u16 hidden = lstm_cell(gates, search.cell[at]);
            search.hidden[at] = hidden;
            u16* state = final_row(*call, f.utterance);
            state[hidden_at(layer) + owned] = hidden;
            state[cell_at(layer) + owned] = to_16bit(search.cell[at]);
        }
        __syncthreads();
    }
}

// grid: tiles of the projection, then blocks of units that prepare the top layer
extern "C" __global__ void __launch_bounds__(kThreads)
project(const Batch* call, const Search search, const Model model) {
    __shared__ float partial[WARPS * 8 * 32];
    const Control& c = current(search);
    const int count = c.found_count;
    for (int first = 0; first < count; first += 8) {
        uint4 x[kHiddenPairsPerWarp];
        load_hidden(x, search, c, LAYERS - 1, first);
        if (blockIdx.x >= kPredTiles) {
            const int block = blockIdx.x - kPredTiles;
            multiply_and_store(partial, matrix(model, block, kMatrices - 1), x);
            __syncthreads();
            keep_recurrent(search, model, c, partial, LAYERS - 1, block, first);
        } else {
            float acc[1][4] = {};
            multiply_hidden<1>(acc, model.pred + (size_t)blockIdx.x * kPredFragments, x);
            store_partial<1>(partial, acc);
            __syncthreads();
            const int reg = threadIdx.x / 32, lane = threadIdx.x & 31, column = first + accumulator_column(reg, lane);
            const int row = blockIdx.x * 16 + accumulator_row(reg, lane);
            if (threadIdx.x < 128 && column < count) {
                const Found f = c.found[column];
                const u16 value = to_16bit(sum_partial<1>(partial, reg, lane) + __ldg(model.pred_bias + row));
                search.prediction[(size_t)f.slot * JOINT + row] = value;
                final_row(*call, f.utterance)[kPredictionAt + row] = value;
            }
        }
        __syncthreads();
    }
}
