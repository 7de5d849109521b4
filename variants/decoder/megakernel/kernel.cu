// Greedy TDT decoding of whole utterances by one persistent kernel.
//
// WHERE THE DATA IS (Parakeet-TDT 0.6B on an H100: 132 SMs, one block of 256 threads on each)
//   joint output, 8198 x 640      10.8 MB in registers: four tiles of 16 rows per block, 96 registers a thread
//   LSTM matrices, 2560 x 640      9.8 MB in shared memory of 80 blocks: W_hh of layer 0, W_ih and W_hh of layer 1,
//                                  each block owning 8 units of both layers (32 gate rows, 123 KB)
//   prediction projection, 640^2   0.8 MB in shared memory of 40 of the other blocks
//   layer 0 input, W_ih emb + b    a table in device memory, one row of gates per token: a label gathers
//                                  128 bytes per block, and the product with W_ih is gone
//   LSTM and search state          shared memory of the owning block; the search is replicated in every block
//   encoder states, projected      device memory (L2), read once per evaluated frame
// Weights are read from device memory once per launch (21 MB: about 8 us) and never again.
//
// HOW BLOCKS MEET
// There is no grid barrier. Whatever one block hands to others travels as eight-byte words, four bytes
// of data and the number of the step (the "LL" protocol of NCCL): a reader polls the very words that it
// needs and has the data the moment they are there. One such hop costs a store and a load through L2,
// where a barrier would cost a fence, an atomic, a poll and then the load.
//
//   a label   5 hops:  candidates -> one block per column picks its token and duration
//                      choices    -> every block walks the window; 80 blocks finish layer 0
//                      hidden 0   -> layer 1       (and W_hh h0 for the next label, off the critical path)
//                      hidden 1   -> projection    (and W_hh h1 likewise)
//                      prediction -> joint on a window of up to 8 frames -> candidates
//   a blank   0 hops:  the window's other frames are columns of the same tensor-core instructions.
//             2 hops (prediction unchanged) only when a window holds no label at all.
// The hop through one block per column pays: were every block to read every block's candidates, 132 of
// them would poll the same lines of L2, which then answer one after the other (DIRECT_COLUMNS does that).
//
// Why words may be overwritten: a block publishes candidates of step e only after it has consumed hidden
// states and predictions of step e, and nobody produces those of step e + 1 before it has the choices of
// step e, which took every block's candidates. Candidates and choices alternate between two buffers.
//
// MANY UTTERANCES: a slot holds one; columns of a product are slots x frames of the window, and the window
// shrinks as slots fill it. A finished utterance's slot takes the next of the call at once, in the kernel.
//
// FLOOR of one label at batch 1: 5 hops of 0.25 to 0.33 us (half a round trip of one word between two SMs,
// measured on an H100 with nothing else polling) plus the products: 49 KB of shared memory at 128 bytes a
// cycle is 0.2 us, the joint's 48 mma per scheduler as much. About 2 us, against 8 us for reading 24.4 MB
// at 3 TB/s. Measured: 7.5 us a step. Per step of 14,000 cycles roughly 6,000 are hops (polls of many
// blocks queue at the L2 slice that holds the line) and 8,000 the serial parts between them, each a few
// hundred instructions by one warp or between two __syncthreads: LSTM cells, sums, walk, choice.
//
// All blocks must be resident at once: the launch is cooperative. A poll that spins SPIN_LIMIT times
// traps, so that a fault ends in an error and never in a hang.
#include "tdt.cuh"

// Further macros: BLOCKS (the grid), MATRIX_BYTES (shared memory for weights), PRED_OFFSET (bytes, where a
// block's tile of the projection begins), SPIN_LIMIT, DIRECT_COLUMNS (up to so many columns every block
// chooses for itself), PROFILE (1 + the block whose cycles per phase go into the report; 0: none).

constexpr int kMatrices = 2 * LAYERS - 1;                      // W_hh 0, then W_ih and W_hh of each layer above
constexpr int kMatrixFragments = 2 * kHiddenPairs * 2 * 32;    // 16-byte fragments of 32 gate rows
constexpr int kPredFragments = kHiddenPairs * 2 * 32;
constexpr int kCandidateWords = BLOCKS + 1;                    // one of each block, and the durations'
constexpr int kCandidateRounds = (kCandidateWords + 31) / 32;
constexpr int kHiddenWords = HIDDEN / 2, kJointWords = JOINT / 2;

struct Model {
    const uint4* joint;        // [BLOCKS * JOINT_TILES, fragments] output rows: tokens, blank, padding, durations
    const float* joint_bias;   // [BLOCKS * JOINT_TILES * 16]
    const uint4* matrices;     // [kUnitBlocks, kMatrices, 2 tiles, fragments]
    const float4* bias;        // [LAYERS, HIDDEN] by gate; layer 0's is in the table
    const float4* label_gates; // [VOCAB, HIDDEN] W_ih embedding + bias of layer 0, by gate
    const uint4* pred;         // [kPredTiles, fragments]
    const float* pred_bias;    // [JOINT]
};

struct Exchange {              // words of 4 bytes of data and the step's number
    uint2* hidden;             // [LAYERS, SLOTS, kHiddenWords]
    uint2* prediction;         // [SLOTS, kJointWords]
    uint2* candidates;         // [2, COLUMNS, kCandidateWords]
    uint2* choices;            // [2, COLUMNS] token | duration << 16
    u32* step;                 // the last step of the launch before
};

struct __align__(16) Shared {
    Control control;
    float joint_bias[JOINT_TILES * 16];
    u32 best[16];
    u32 choices[COLUMNS];
};

// Dynamic shared memory, after the weights.
constexpr int kPartialFloats = WARPS * 32 * (JOINT_TILES * 4 > 16 ? JOINT_TILES * 4 : 16);
struct Memory {
    uint4* weights;        // LSTM matrices of this block's units; at PRED_OFFSET its tile of the projection
    float* partial;        // partial sums: JOINT_TILES * 4 registers a lane, or two buffers of 8
    float4* recurrent;     // [LAYERS][SLOTS][kUnits] W_hh h + b, for the next label
    float* cell;           // [LAYERS][SLOTS][kUnits]
};

// ------------------------------------------------------------------------------------ words

__device__ __forceinline__ void publish(uint2* word, u32 data, u32 step) {
    asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1,%2};" ::"l"(word), "r"(data), "r"(step) : "memory");
}

__device__ __forceinline__ uint4 peek2(const uint2* words) {  // two words
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(words) : "memory");
    return v;
}

__device__ __forceinline__ uint2 peek(const uint2* word) {
    uint2 v;
    asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(word) : "memory");
    return v;
}

__device__ __forceinline__ void count_spin(u32& spins) {
    if (++spins > SPIN_LIMIT) __trap();
}

// Where the word of numbers 2 * index and 2 * index + 1 lies: of each run of sixteen words, first the first
// two of every quad, then the others. So four lanes poll 64 contiguous bytes: half the sectors, and polls
// of many blocks queue at the L2 slice that holds them (a hop of 2700 cycles instead of 3500).
__device__ __forceinline__ int word_at(int index) {
    const int quad = index / 4 % 4, part = index % 4;
    return (index & ~15) + part / 2 * 8 + quad * 2 + part % 2;
}

// This lane's part of a vector of published words: PAIRS runs of eight numbers, four words each.
template <int PAIRS, int PAIRS_TOTAL>
struct Incoming {
    uint4 low[PAIRS], high[PAIRS];

    __device__ __forceinline__ void peek(const uint2* vector, bool wanted) {
        const int warp = threadIdx.x / 32, quad = threadIdx.x & 3;
#pragma unroll
        for (int p = 0; p < PAIRS; ++p) {
            const int pair = warp * PAIRS + p;
            if (wanted && pair < PAIRS_TOTAL) {
                low[p] = peek2(vector + pair * 16 + quad * 2);
                high[p] = peek2(vector + pair * 16 + 8 + quad * 2);
            }
        }
    }

    __device__ __forceinline__ bool arrived(u32 step) const {
        bool all = true;
#pragma unroll
        for (int p = 0; p < PAIRS; ++p)
            if ((threadIdx.x / 32) * PAIRS + p < PAIRS_TOTAL)
                all &= low[p].y == step && low[p].w == step && high[p].y == step && high[p].w == step;
        return all;
    }

    // Poll until everything is there; the first look was `peek`.
    __device__ __forceinline__ void await(uint4 (&x)[PAIRS], const uint2* vector, u32 step, bool wanted) {
        u32 spins = 0;
        while (wanted && !arrived(step)) {
            peek(vector, true);
            count_spin(spins);
        }
        __syncwarp();
#pragma unroll
        for (int p = 0; p < PAIRS; ++p) {
            x[p] = make_uint4(0, 0, 0, 0);
            if (wanted && (threadIdx.x / 32) * PAIRS + p < PAIRS_TOTAL)
                x[p] = make_uint4(low[p].x, low[p].z, high[p].x, high[p].z);
        }
    }
};

// ------------------------------------------------------------------------------------ prologue

__device__ __forceinline__ void copy_to_shared(uint4* target, const uint4* source, int count) {
    for (int i = threadIdx.x; i < count; i += kThreads) {
        const u32 address = (u32)__cvta_generic_to_shared(target + i);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(source + i) : "memory");
    }
}

__device__ __forceinline__ bool owns_units() { return blockIdx.x < kUnitBlocks; }
__device__ __forceinline__ int pred_tile() { return BLOCKS - 1 - (int)blockIdx.x; }
__device__ __forceinline__ bool owns_pred() { return pred_tile() < kPredTiles; }

using JointWeights = uint4[JOINT_TILES][kJointPairsPerWarp][2];

__device__ __forceinline__ void load_weights(const Model& model, const Memory& m, Shared& s, JointWeights& joint) {
    if (owns_units())
        copy_to_shared(m.weights, model.matrices + (size_t)blockIdx.x * kMatrices * kMatrixFragments,
                       kMatrices * kMatrixFragments);
    if (owns_pred())
        copy_to_shared(m.weights + PRED_OFFSET / 16, model.pred + (size_t)pred_tile() * kPredFragments, kPredFragments);
    asm volatile("cp.async.commit_group;" ::: "memory");
    const int first = blockIdx.x * JOINT_TILES;
    load_joint_weights(joint, model.joint, first);
    for (int i = threadIdx.x; i < JOINT_TILES * 16; i += kThreads) s.joint_bias[i] = model.joint_bias[first * 16 + i];
    if (threadIdx.x < 16) s.best[threadIdx.x] = 0;
    asm volatile("cp.async.wait_all;" ::: "memory");
}

// State of the slots that took a new utterance in the last step. What it leaves behind if it finds no
// label is what it began with.
__device__ __forceinline__ void load_assigned(const Batch& batch, const Control& c, const Memory& m) {
    if (owns_units()) {
#pragma unroll 1
        for (int i = threadIdx.x; i < c.assigned_count * kUnits * LAYERS; i += kThreads) {
            const int unit = i % kUnits, layer = i / kUnits % LAYERS, slot = c.assigned[i / (kUnits * LAYERS)];
            const int owned = blockIdx.x * kUnits + unit, at = (layer * SLOTS + slot) * kUnits + unit;
            const int utterance = c.slot[slot].utterance;
            const u16* row = initial_row(batch, utterance);
            u16* out = final_row(batch, utterance);
            m.recurrent[at] = initial_recurrent(batch, utterance, layer)[owned];
            m.cell[at] = to_float(row[cell_at(layer) + owned]);
            out[hidden_at(layer) + owned] = row[hidden_at(layer) + owned];
            out[cell_at(layer) + owned] = row[cell_at(layer) + owned];
        }
    }
    if (owns_pred()) {
#pragma unroll 1
        for (int i = threadIdx.x; i < c.assigned_count * 16; i += kThreads) {
            const int utterance = c.slot[c.assigned[i / 16]].utterance, at = kPredictionAt + pred_tile() * 16 + i % 16;
            final_row(batch, utterance)[at] = initial_row(batch, utterance)[at];
        }
    }
}

// ------------------------------------------------------------------------------------ joint

using JointVector = Incoming<kJointPairsPerWarp, kJointPairs>;
using HiddenVector = Incoming<kHiddenPairsPerWarp, kHiddenPairs>;

__device__ __forceinline__ const uint2* prediction_words(const Exchange& ex, const Column& column) {
    return ex.prediction + (size_t)column.slot * kJointWords;
}

// Evaluate the joint on every active slot's window; publish this block's best candidates. The loads of a
// tile of eight columns are under way while the tile before it is computed. Blocks begin with different
// tiles, or all would read the same few lines of L2 at once.
__device__ __forceinline__ void joint_step(const Batch& batch, const Exchange& ex, Shared& s, const Memory& m,
                                           const JointWeights& weights, u32 step) {
    const int columns = column_count(s.control);
    uint2* out = ex.candidates + (size_t)(step & 1) * COLUMNS * kCandidateWords;
    uint4 states[kJointPairsPerWarp], prediction[kJointPairsPerWarp], x[kJointPairsPerWarp];
    JointVector incoming;
    const int end = (columns + 7) & ~7;
    int first = columns > 8 ? (int)(blockIdx.x % (end / 8)) * 8 : 0;
    Column column = joint_column(s.control, batch, first);
    load_vector<kJointPairsPerWarp, kJointPairs>(states, column.states, column.valid);
    incoming.peek(prediction_words(ex, column), column.valid && column.prediction);
#pragma unroll 1
    for (int left = end; left > 0; left -= 8) {
        incoming.await(prediction, prediction_words(ex, column), column.prediction, column.valid && column.prediction);
        if (column.valid && !column.prediction)
            load_vector<kJointPairsPerWarp, kJointPairs>(prediction, initial_row(batch, column.utterance) + kPredictionAt,
                                                         true);
        __syncwarp();
#pragma unroll
        for (int p = 0; p < kJointPairsPerWarp; ++p) x[p] = add_relu(states[p], prediction[p]);
        const int next = first + 8 < end ? first + 8 : 0;
        column = joint_column(s.control, batch, next);
        if (left > 8) {
            load_vector<kJointPairsPerWarp, kJointPairs>(states, column.states, column.valid);
            incoming.peek(prediction_words(ex, column), column.valid && column.prediction);
        }
        multiply_joint(m.partial, weights, x);
        __syncthreads();
        fold_candidates(m.partial, s.joint_bias, blockIdx.x * JOINT_TILES, s.best);
        __syncthreads();
        if (threadIdx.x < 8) {
            const int at = first + threadIdx.x;
            if (at < columns) {
                uint2* words = out + (size_t)at * kCandidateWords;
                publish(words + blockIdx.x, s.best[threadIdx.x], step);
                if (blockIdx.x == kTokenTiles / JOINT_TILES) publish(words + BLOCKS, s.best[8 + threadIdx.x], step);
            }
            s.best[threadIdx.x] = s.best[8 + threadIdx.x] = 0;
        }
        first = next;
    }
}

// The choice of one column from every block's candidates, by one warp.
__device__ __forceinline__ u32 choose(const uint2* words, u32 step) {
    const int lane = threadIdx.x & 31;
    uint2 word[kCandidateRounds];
    bool there;
    u32 spins = 0;
    do {
        there = true;
#pragma unroll
        for (int r = 0; r < kCandidateRounds; ++r) {
            const int i = r * 32 + lane;
            word[r] = make_uint2(0, step);
            if (i < kCandidateWords) word[r] = peek(words + i);
        }
#pragma unroll
        for (int r = 0; r < kCandidateRounds; ++r) there &= word[r].y == step;
        count_spin(spins);
    } while (!there);
    __syncwarp();
    u32 best = 0, duration = 0;
#pragma unroll
    for (int r = 0; r < kCandidateRounds; ++r) {
        if (r * 32 + lane < BLOCKS) best = max(best, word[r].x);
        if (r * 32 + lane == BLOCKS) duration = word[r].x;
    }
    best = __reduce_max_sync(kAll, best);
    duration = __reduce_max_sync(kAll, duration);
    return make_choice(best, duration);
}

// Every block learns every column's choice. Blocks without LSTM units choose first: they have the time.
__device__ __forceinline__ void collect_choices(const Exchange& ex, Shared& s, u32 step) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, columns = column_count(s.control);
    const uint2* candidates = ex.candidates + (size_t)(step & 1) * COLUMNS * kCandidateWords;
    if (columns <= DIRECT_COLUMNS) {
#pragma unroll 1
        for (int column = warp; column < columns; column += WARPS) {
            const u32 choice = choose(candidates + (size_t)column * kCandidateWords, step);
            if (lane == 0) s.choices[column] = choice;
        }
        return;
    }
    uint2* choices = ex.choices + (step & 1) * COLUMNS;
    const int mine = ((int)blockIdx.x - kUnitBlocks + BLOCKS) % BLOCKS;  // the first column that this block chooses
#pragma unroll 1
    for (int column = mine + warp * BLOCKS; column < columns; column += WARPS * BLOCKS) {
        const u32 choice = choose(candidates + (size_t)column * kCandidateWords, step);
        if (lane == 0) publish(choices + column, choice, step);
    }
#pragma unroll 1
    for (int column = threadIdx.x; column < columns; column += kThreads) {
        uint2 word;
        u32 spins = 0;
        do {
            word = peek(choices + column);
            count_spin(spins);
        } while (word.y != step);
        s.choices[column] = word.x;
    }
}

// ------------------------------------------------------------------------------------ prediction network

// Round, pair with the neighbouring unit (`distance` lanes on) and hand on.
__device__ __forceinline__ void publish_pair(uint2* words, int index, u16 value, int distance, u32 step, bool mine) {
    const u32 neighbour = __shfl_down_sync(kAll, (u32)value, distance);
    if (mine && (index & 1) == 0) publish(words + word_at(index / 2), (u32)value | neighbour << 16, step);
}

// Layer 0 of the found labels: its gates are a row of the table plus what was prepared after the last label.
__device__ __forceinline__ void first_layer(const Model& model, const Batch& batch, const Exchange& ex,
                                            const Shared& s, const Memory& m, u32 step) {
    const int count = s.control.found_count * kUnits;
#pragma unroll 1
    for (int base = threadIdx.x & ~31; base < count; base += kThreads) {
        const int i = base + (threadIdx.x & 31), unit = i % kUnits, owned = blockIdx.x * kUnits + unit;
        const bool mine = i < count;
        const Found f = s.control.found[mine ? i / kUnits : 0];
        u16 hidden = 0;
        if (mine) {
            const int at = f.slot * kUnits + unit;
            const float4 table = __ldg(model.label_gates + (size_t)f.label * HIDDEN + owned);
            const float4 prepared = m.recurrent[at];
            hidden = lstm_cell(make_float4(table.x + prepared.x, table.y + prepared.y, table.z + prepared.z,
                                           table.w + prepared.w), m.cell[at]);
            u16* state = final_row(batch, f.utterance);
            state[hidden_at(0) + owned] = hidden;
            state[cell_at(0) + owned] = to_16bit(m.cell[at]);
        }
        publish_pair(ex.hidden + (size_t)f.slot * kHiddenWords, owned, hidden, 1, step, mine);
    }
}

// Finish a layer's units from the partial sums of W_ih h: two warps, a thread per unit and column.
__device__ __forceinline__ void finish_units(const Batch& batch, const Exchange& ex, const Shared& s, const Memory& m,
                                             const float* partial, int layer, int first, u32 step) {
    if (threadIdx.x >= 64) return;
    const int lane = threadIdx.x & 31, parity = threadIdx.x / 32;
    const int column = first + 2 * (lane & 3) + parity, unit = lane / 4, owned = blockIdx.x * kUnits + unit;
    const bool mine = column < s.control.found_count;
    const Found f = s.control.found[mine ? column : 0];
    u16 hidden = 0;
    if (mine) {
        const int at = (layer * SLOTS + f.slot) * kUnits + unit;
        const float4 prepared = m.recurrent[at];
        const float4 gates = make_float4(sum_partial<2>(partial, parity, lane) + prepared.x,
                                         sum_partial<2>(partial, 2 + parity, lane) + prepared.y,
                                         sum_partial<2>(partial, 4 + parity, lane) + prepared.z,
                                         sum_partial<2>(partial, 6 + parity, lane) + prepared.w);
        hidden = lstm_cell(gates, m.cell[at]);
        u16* state = final_row(batch, f.utterance);
        state[hidden_at(layer) + owned] = hidden;
        state[cell_at(layer) + owned] = to_16bit(m.cell[at]);
    }
    publish_pair(ex.hidden + ((size_t)layer * SLOTS + f.slot) * kHiddenWords, owned, hidden, 4, step, mine);
}

// Keep W_hh h + b of a layer for the next label.
__device__ __forceinline__ void keep_recurrent(const Model& model, const Shared& s, const Memory& m,
                                               const float* partial, int layer, int first) {
#pragma unroll 1
    for (int i = threadIdx.x; i < 8 * 32; i += kThreads) {
        const int reg = i / 32, lane = i & 31, column = first + accumulator_column(reg, lane);
        if (column >= s.control.found_count) continue;
        const int unit = lane / 4, gate = reg / 2;
        const int at = (layer * SLOTS + s.control.found[column].slot) * kUnits + unit;
        const float bias = layer ? ((const float*)(model.bias + layer * HIDDEN + blockIdx.x * kUnits + unit))[gate] : 0.f;
        ((float*)(m.recurrent + at))[gate] = sum_partial<2>(partial, reg, lane) + bias;
    }
}

__device__ __forceinline__ void finish_prediction(const Model& model, const Batch& batch, const Exchange& ex,
                                                  const Shared& s, const float* partial, int first, u32 step) {
    if (threadIdx.x >= 128) return;
    const int reg = threadIdx.x / 32, lane = threadIdx.x & 31, column = first + accumulator_column(reg, lane);
    const int row = pred_tile() * 16 + accumulator_row(reg, lane);
    const bool mine = column < s.control.found_count;
    const Found f = s.control.found[mine ? column : 0];
    u16 value = 0;
    if (mine) {
        value = to_16bit(sum_partial<1>(partial, reg, lane) + __ldg(model.pred_bias + row));
        final_row(batch, f.utterance)[kPredictionAt + row] = value;
    }
    publish_pair(ex.prediction + (size_t)f.slot * kJointWords, row, value, 4, step, mine);
}

__device__ __forceinline__ void multiply_and_store(float* partial, const uint4* weights,
                                                   const uint4 (&x)[kHiddenPairsPerWarp]) {
    float acc[2][4] = {};
    multiply_hidden<2>(acc, weights, x);
    store_partial<2>(partial, acc);
}

using HeldWeights = uint4[2][kHiddenPairsPerWarp][2];

template <int TILES>
__device__ __forceinline__ void hold(HeldWeights& held, const uint4* weights) {
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
        for (int p = 0; p < kHiddenPairsPerWarp; ++p)
#pragma unroll
            for (int step = 0; step < 2; ++step) {
                const int pair = (threadIdx.x / 32) * kHiddenPairsPerWarp + p;
                held[tile][p][step] = make_uint4(0, 0, 0, 0);
                if (pair < kHiddenPairs)
                    held[tile][p][step] = weights[fragment_index(tile, kHiddenPairs, pair, step)];
            }
}

template <int TILES>
__device__ __forceinline__ void multiply_held(float (&acc)[TILES][4], const HeldWeights& held,
                                              const uint4 (&x)[kHiddenPairsPerWarp]) {
#pragma unroll
    for (int p = 0; p < kHiddenPairsPerWarp; ++p)
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            mma(acc[tile], held[tile][p][0], x[p].x, x[p].y);
            mma(acc[tile], held[tile][p][1], x[p].z, x[p].w);
        }
}

// Consume the hidden state of `below` as it arrives: the layer above (or the projection) first, then W_hh h.
__device__ __forceinline__ void upper_stage(const Model& model, const Batch& batch, const Exchange& ex, Shared& s,
                                            const Memory& m, int below, u32 step) {
    const bool top = below == LAYERS - 1;
    if (!owns_units() && !(top && owns_pred())) return;
    float* second = m.partial + WARPS * 32 * 8;
    const int lane = threadIdx.x & 31, count = s.control.found_count;
    HiddenVector incoming;
    // What the critical path multiplies with goes to registers while the hidden state is on its way.
    HeldWeights held;
    if (top) hold<1>(held, m.weights + PRED_OFFSET / 16);
    else hold<2>(held, m.weights + (2 * below + 1) * kMatrixFragments);
#pragma unroll 1
    for (int first = 0; first < count; first += 8) {
        const int column = first + lane / 4;
        const bool present = column < count;
        const uint2* vector =
            ex.hidden + ((size_t)below * SLOTS + s.control.found[present ? column : 0].slot) * kHiddenWords;
        uint4 x[kHiddenPairsPerWarp];
        incoming.peek(vector, present);
        incoming.await(x, vector, step, present);
        if (top && owns_pred()) {
            float acc[1][4] = {};
            multiply_held<1>(acc, held, x);
            store_partial<1>(m.partial, acc);
            __syncthreads();
            finish_prediction(model, batch, ex, s, m.partial, first, step);
        }
        if (!top) {
            float acc[2][4] = {};
            multiply_held<2>(acc, held, x);
            store_partial<2>(m.partial, acc);
            __syncthreads();
            finish_units(batch, ex, s, m, m.partial, below + 1, first, step);
        }
        if (owns_units()) multiply_and_store(second, m.weights + 2 * below * kMatrixFragments, x);
        __syncthreads();
        if (owns_units()) keep_recurrent(model, s, m, second, below, first);
    }
    __syncthreads();
}

// ------------------------------------------------------------------------------------ the kernel

#if PROFILE
#define MARK(phase) { const long long now = clock64(); cycles[phase] += now - mark; mark = now; }
#else
#define MARK(phase)
#endif

extern "C" __global__ void __launch_bounds__(kThreads, 1)
tdt_decode(const Model model, const Batch batch, const Exchange ex) {
    extern __shared__ uint4 dynamic[];
    __shared__ Shared s;
    Memory m;
    m.weights = dynamic;
    m.partial = (float*)(dynamic + MATRIX_BYTES / 16);
    m.recurrent = (float4*)(m.partial + kPartialFloats);
    m.cell = (float*)(m.recurrent + LAYERS * SLOTS * kUnits);

    u32 step = *ex.step + 1;  // written only after every block has published in this launch
    if (threadIdx.x < 32) begin_control(s.control, batch);
    JointWeights joint;
    load_weights(model, m, s, joint);
    __syncthreads();
#if PROFILE
    long long cycles[6] = {}, mark = clock64();
#endif
    while (s.control.active_count > 0) {
        joint_step(batch, ex, s, m, joint, step);
        MARK(0)
        if (s.control.assigned_count > 0) load_assigned(batch, s.control, m);
        collect_choices(ex, s, step);
        __syncthreads();
        MARK(1)
        if (threadIdx.x < 32) advance_control(s.control, batch, s.choices, step, blockIdx.x == 0);
        __syncthreads();
        MARK(2)
        if (s.control.found_count > 0) {
            if (owns_units()) first_layer(model, batch, ex, s, m, step);
            MARK(3)
#pragma unroll 1
            for (int below = 0; below < LAYERS; ++below) {
                upper_stage(model, batch, ex, s, m, below, step);
                MARK(below < LAYERS - 1 ? 4 : 5)
            }
        }
        ++step;
    }
#if PROFILE
    if (blockIdx.x == PROFILE - 1 && threadIdx.x == 0)
        for (int i = 0; i < 6; ++i) batch.report[5 + i] = (u64)cycles[i];
#endif
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *ex.step = step;
        report_run(s.control, batch);
        batch.report[4] = step;
    }
}
