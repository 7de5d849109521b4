// What both GPU decoders share: number format, tensor-core products, the LSTM cell, the choice of the
// best token, and the control of a greedy TDT search (Xu et al. 2023, arXiv:2304.06795, algorithm 2).
//
// Sizes arrive as macros from the compiler's command line (gpu/shape.py):
//   HIDDEN, LAYERS      width and depth of the prediction network's LSTM; HIDDEN is a multiple of 32
//   JOINT               width of the joint; a multiple of 32
//   VOCAB               tokens and blank; BLANK is the last of them
//   DURATIONS           how many there are; DURATION_VALUES lists them
//   MAX_SYMBOLS         labels on one frame before time is pushed on
//   SLOTS               utterances decoded at the same time
//   COLUMNS             joint evaluations of one step (utterances x frames), at least SLOTS
//   WARPS               warps of a block; every product's K is split between them
//   JOINT_TILES         tiles of 16 joint outputs that one block owns
//   BF16                1 for bfloat16, 0 for float16
//
// Rounding follows PyTorch's half-precision modules: products accumulate in float32; the projections,
// their sum, the logits, the hidden and the cell state are rounded to 16 bits. Equal logits: lowest index.
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int kThreads = WARPS * 32;
constexpr int kHiddenPairs = HIDDEN / 32;  // a "pair" is two k16 steps of the tensor core
constexpr int kJointPairs = JOINT / 32;
constexpr int kHiddenPairsPerWarp = (kHiddenPairs + WARPS - 1) / WARPS;
constexpr int kJointPairsPerWarp = (kJointPairs + WARPS - 1) / WARPS;
constexpr int kUnits = 8;                    // LSTM units that one block owns: 32 gate rows, two tiles
constexpr int kUnitBlocks = HIDDEN / kUnits;
constexpr int kPredTiles = JOINT / 16;
constexpr int kTokenTiles = (VOCAB + 15) / 16;  // the durations follow in a tile of their own
constexpr int kState = 2 * LAYERS * HIDDEN + JOINT;  // hidden, cell, projected output: one utterance's state
constexpr int kRow = kState + 8;  // a state's row: 16 bytes more hold the overrun and keep rows aligned
constexpr u32 kAll = 0xffffffffu;

// ------------------------------------------------------------------------------------ number format

__device__ __forceinline__ float to_float(u16 bits) {
#if BF16
    return __uint_as_float((u32)bits << 16);
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#endif
}

__device__ __forceinline__ u16 to_16bit(float value) {
    u16 bits;
#if BF16
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#endif
    return bits;
}

// relu(a + b) of two packed 16-bit numbers, the sum rounded once as PyTorch does.
__device__ __forceinline__ u32 add_relu(u32 a, u32 b) {
    u32 sum, result;
#if BF16
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(0x3f803f80u), "r"(b));
    asm("max.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(sum), "r"(0u));
#else
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
    asm("max.f16x2 %0, %1, %2;" : "=r"(result) : "r"(sum), "r"(0u));
#endif
    return result;
}

__device__ __forceinline__ uint4 add_relu(uint4 a, uint4 b) {
    return make_uint4(add_relu(a.x, b.x), add_relu(a.y, b.y), add_relu(a.z, b.z), add_relu(a.w, b.w));
}

// ------------------------------------------------------------------------------------ memory

__device__ __forceinline__ uint4 load_constant(const void* address) {  // data no kernel in flight writes
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(address));
    return v;
}

// ------------------------------------------------------------------------------------ products
//
// Every product is W[16 rows, K] x X[K, 8 columns], by mma.m16n8k16 with float32 accumulators. K is cut
// into pairs of 32; a warp takes a contiguous run of pairs and the partial sums meet in shared memory,
// always in the order of the warps: the result does not depend on timing.
//
// Inside a pair, lane (row = lane / 4, quad = lane % 4) owns k = 8 * quad .. 8 * quad + 7. The first four
// serve the first k16 step and the last four the second. Any order of k is right as long as both
// operands agree, and this one makes a lane's part of X sixteen contiguous bytes.
// Weights are stored in the order in which lanes want them: [tile][pair][step][lane] of 16 bytes.

__device__ __forceinline__ void mma(float (&acc)[4], const uint4& a, u32 b0, u32 b1) {
#if BF16
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
                 : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
                 : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

__device__ __forceinline__ int fragment_index(int tile, int pairs, int pair, int step) {
    return ((tile * pairs + pair) * 2 + step) * 32 + (threadIdx.x & 31);
}

// Add this warp's share of TILES x 16 rows to `acc`; `weights` is in global or shared memory.
template <int TILES>
__device__ __forceinline__ void multiply_hidden(float (&acc)[TILES][4], const uint4* weights,
                                                const uint4 (&x)[kHiddenPairsPerWarp]) {
    const int warp = threadIdx.x / 32;
#pragma unroll
    for (int p = 0; p < kHiddenPairsPerWarp; ++p) {
        const int pair = warp * kHiddenPairsPerWarp + p;
        if (pair >= kHiddenPairs) break;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            mma(acc[tile], weights[fragment_index(tile, kHiddenPairs, pair, 0)], x[p].x, x[p].y);
            mma(acc[tile], weights[fragment_index(tile, kHiddenPairs, pair, 1)], x[p].z, x[p].w);
        }
    }
}

// partial: [WARPS][TILES * 4 registers][32 lanes]
template <int TILES>
__device__ __forceinline__ void store_partial(float* partial, const float (&acc)[TILES][4]) {
    float* mine = partial + (threadIdx.x / 32) * TILES * 4 * 32 + (threadIdx.x & 31);
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
        for (int r = 0; r < 4; ++r) mine[(tile * 4 + r) * 32] = acc[tile][r];
}

template <int TILES>
__device__ __forceinline__ float sum_partial(const float* partial, int reg, int lane) {
    float sum = 0.f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) sum += partial[(warp * TILES * 4 + reg) * 32 + lane];
    return sum;
}

// Accumulator register r of a lane is row (lane / 4) + 8 * (r / 2), column 2 * (lane % 4) + r % 2.
__device__ __forceinline__ int accumulator_row(int reg, int lane) { return lane / 4 + 8 * ((reg & 3) / 2); }
__device__ __forceinline__ int accumulator_column(int reg, int lane) { return 2 * (lane & 3) + (reg & 1); }

// ------------------------------------------------------------------------------------ LSTM

// Within 2e-7 of the exact values: far below the 16 bits that the result is rounded to, and a third of the
// time of the library's functions, which sit on the critical path of every label.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }
__device__ __forceinline__ float hyperbolic_tangent(float x) { return 1.f - __fdividef(2.f, 1.f + __expf(2.f * x)); }

// gates: input, forget, candidate, output, before their nonlinearities. `cell` is rounded to 16 bits, as
// it is between two calls of a half-precision torch.nn.LSTM. Returns the hidden state, rounded.
__device__ __forceinline__ u16 lstm_cell(float4 gates, float& cell) {
    const float next = sigmoid(gates.y) * cell + sigmoid(gates.x) * hyperbolic_tangent(gates.z);
    const float hidden = sigmoid(gates.w) * hyperbolic_tangent(next);
    cell = to_float(to_16bit(next));
    return to_16bit(hidden);
}

// ------------------------------------------------------------------------------------ the best token
//
// A candidate is one word: the logit in 16 bits, mapped so that unsigned order is numeric order, above the
// complement of its index. The greatest word is the greatest logit and, among equals, the lowest index,
// which is what torch.max and torch.argmax return on a GPU. Zero is "no candidate".

__device__ __forceinline__ u32 candidate(float logit, int index) {
    u32 bits = to_16bit(logit);
    if (bits == 0x8000u) bits = 0;  // minus zero equals zero
    const u32 ordered = (bits & 0x8000u) ? (~bits & 0xffffu) : (bits | 0x8000u);
    return (ordered << 16) | (0xffffu - (u32)index);
}

__device__ __forceinline__ int candidate_index(u32 word) { return (int)(0xffffu - (word & 0xffffu)); }

// After the partial sums of JOINT_TILES tiles are stored and the block has met: fold the best candidates
// of this block into best[0..7] (tokens) and best[8..15] (durations), one per column. `best` starts at 0.
__device__ __forceinline__ void fold_candidates(const float* partial, const float* bias, int first_tile, u32* best) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
#pragma unroll 1
    for (int item = warp; item < 2 * JOINT_TILES; item += WARPS) {
        const int tile = item / 2, parity = item & 1, global_tile = first_tile + tile;
        if (global_tile > kTokenTiles) continue;  // padding
        const bool tokens = global_tile < kTokenTiles;
        const int limit = tokens ? VOCAB : DURATIONS;
        u32 word = 0;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int reg = tile * 4 + 2 * half + parity;
            const int row = accumulator_row(reg, lane);
            const int index = tokens ? global_tile * 16 + row : row;
            const float logit = sum_partial<JOINT_TILES>(partial, reg, lane) + bias[tile * 16 + row];
            if (index < limit) word = max(word, candidate(logit, index));
        }
        word = max(word, __shfl_xor_sync(kAll, word, 4));
        word = max(word, __shfl_xor_sync(kAll, word, 8));
        word = max(word, __shfl_xor_sync(kAll, word, 16));
        if (lane < 4) atomicMax(best + (tokens ? 0 : 8) + 2 * lane + parity, word);
    }
}

// ------------------------------------------------------------------------------------ one call's data

struct Batch {
    const u16* projected;             // [utterances, frames, JOINT] encoder states, projected for the joint
    const long long* lengths;         // [utterances] valid frames
    const u16* initial_state;         // [1 or utterances, kRow] hidden, cell, projected output, overrun
    const float4* initial_recurrent;  // [1 or utterances, LAYERS, HIDDEN] W_hh h + b of the initial state, by gate
    u16* state;                       // [utterances, kRow] out; the overrun is an int: frames of the next chunk
                                      // that the last duration has already skipped
    u64* log;                         // out: utterance << 48 | token << 32 | frame << 8 | duration, as emitted
    u64* report;                      // out: see report_run
    int utterances;
    int frames;
    int initial_rows;  // 1: every utterance begins alike
    int slots;         // in use, at most SLOTS
    int columns;       // joint evaluations of a step that lookahead may fill, at most COLUMNS
    int max_lookahead_shift;
};

__device__ __forceinline__ const u16* initial_row(const Batch& batch, int utterance) {
    return batch.initial_state + (size_t)(batch.initial_rows == 1 ? 0 : utterance) * kRow;
}

__device__ __forceinline__ const float4* initial_recurrent(const Batch& batch, int utterance, int layer) {
    return batch.initial_recurrent + ((size_t)(batch.initial_rows == 1 ? 0 : utterance) * LAYERS + layer) * HIDDEN;
}

__device__ __forceinline__ u16* final_row(const Batch& batch, int utterance) {
    return batch.state + (size_t)utterance * kRow;
}

// Columns of a state's row.
__device__ __forceinline__ int hidden_at(int layer) { return layer * HIDDEN; }
__device__ __forceinline__ int cell_at(int layer) { return (LAYERS + layer) * HIDDEN; }
constexpr int kPredictionAt = 2 * LAYERS * HIDDEN;
constexpr int kOverrunAt = kState;

// ------------------------------------------------------------------------------------ control
//
// An utterance in flight occupies a slot. A step evaluates the joint for each active slot on a window of
// successive frames, all with the same prediction: a run of blanks is then walked without another
// evaluation, and the first label found ends the walk. Frames behind it were computed for nothing, which
// costs columns of a product whose weights had to be read anyway.

struct Slot {
    int utterance;
    int frame;       // where the search stands
    int length;
    int last_frame;  // of the last label, and how many labels that frame has emitted
    int symbols;
    u32 prediction;  // step that produced the current prediction; 0: the initial state's
};

struct Found {
    int slot;
    int label;
    int utterance;
};

struct Control {
    int active_count;
    int found_count;
    int assigned_count;
    int lookahead_shift;  // a window has 1 << lookahead_shift frames
    int next_utterance;
    int log_count;
    int steps;        // joint evaluations of the whole grid
    int label_steps;  // steps that stepped the LSTM
    int columns;      // joint columns evaluated, all steps together
    int reserved[3];
    int active[SLOTS];
    int assigned[SLOTS];  // slots that took a new utterance in the last step
    Found found[SLOTS];   // labels of the last step
    Slot slot[SLOTS];
};

__device__ __forceinline__ int column_count(const Control& c) { return c.active_count << c.lookahead_shift; }

// What one column of the joint decided: label | frames to skip << 16. A blank skips at least one frame.
__device__ __forceinline__ u32 make_choice(u32 token_candidate, u32 duration_candidate) {
    constexpr int kDuration[DURATIONS] = {DURATION_VALUES};
    const int label = candidate_index(token_candidate), index = candidate_index(duration_candidate);
    int skip = kDuration[0];
#pragma unroll
    for (int d = 1; d < DURATIONS; ++d) skip = index == d ? kDuration[d] : skip;
    if (label == BLANK) skip = max(skip, 1);
    return (u32)label | (u32)skip << 16;
}

__device__ __forceinline__ Slot begin_utterance(const Batch& batch, int utterance) {
    const int overrun = *(const int*)(initial_row(batch, utterance) + kOverrunAt);
    return Slot{utterance, overrun, (int)batch.lengths[utterance], -1, 0, 0};
}

__device__ __forceinline__ int choose_lookahead(const Batch& batch, int active) {
    int shift = batch.max_lookahead_shift;
#pragma unroll 1
    while (shift > 0 && (active << shift) > batch.columns) --shift;
    return shift;
}

// The first warp fills the slots with the first utterances.
__device__ __forceinline__ void begin_control(Control& c, const Batch& batch) {
    const int count = min(batch.slots, batch.utterances);
#pragma unroll 1
    for (int slot = threadIdx.x; slot < count; slot += 32) {
        c.slot[slot] = begin_utterance(batch, slot);
        c.active[slot] = slot;
        c.assigned[slot] = slot;
    }
    if (threadIdx.x == 0) {
        c.active_count = c.assigned_count = c.next_utterance = count;
        c.found_count = c.log_count = c.steps = c.label_steps = c.columns = 0;
        c.lookahead_shift = choose_lookahead(batch, count);
    }
    __syncwarp();
}

// Finished slots take the next utterances. True: this lane's slot goes on.
__device__ __forceinline__ bool replace_finished(Control& c, const Batch& batch, u32 finished, bool done, int slot,
                                                 int& next_utterance, int& assigned_count, bool writes) {
    const int lane = threadIdx.x & 31;
    const u32 below = (1u << lane) - 1;
    if (done && writes) {
        const Slot& s = c.slot[slot];
        *(int*)(final_row(batch, s.utterance) + kOverrunAt) = s.frame - s.length;
    }
    const int next = next_utterance + __popc(finished & below);
    const bool takes = done && next < batch.utterances;
    const u32 takers = __ballot_sync(kAll, takes);
    if (takes) {
        c.slot[slot] = begin_utterance(batch, next);
        c.assigned[assigned_count + __popc(takers & below)] = slot;
    }
    next_utterance = min(next_utterance + __popc(finished), batch.utterances);
    assigned_count += __popc(takers);
    return !done || takes;
}

// One step of the search, by one warp. `choices` holds the columns' choices in the order of c.active. Only
// where `writes` do the log and the overruns go to memory: every block may run the same control on the
// same choices and reach the same state. `step` numbers the predictions to come.
__device__ __forceinline__ void advance_control(Control& c, const Batch& batch, const u32* choices, u32 step,
                                                bool writes) {
    const int lane = threadIdx.x & 31;
    const u32 below = (1u << lane) - 1;
    const int count = c.active_count, shift = c.lookahead_shift, log_count = c.log_count;
    int found_count = 0, assigned_count = 0, active_count = 0, next_utterance = c.next_utterance;
#pragma unroll 1
    for (int base = 0; base < count; base += 32) {
        const int index = base + lane;
        const bool valid = index < count;
        const int slot = c.active[valid ? index : 0];
        Slot& s = c.slot[slot];
        const u32* window = choices + (index << shift);
        // Lanes without an utterance read nothing: the slot is being written by the lane that it belongs to.
        const int first = valid ? s.frame : 0, length = valid ? s.length : 0, utterance = valid ? s.utterance : 0;
        const int end = min(length, first + (1 << shift));
        int frame = first, label = BLANK, skip = 0;
#pragma unroll 1
        while (valid && frame < end) {
            const u32 choice = window[frame - first];
            label = choice & 0xffff;
            skip = choice >> 16;
            if (label != BLANK) break;
            frame += skip;
        }
        const bool found = valid && label != BLANK && frame < end;
        const u32 finders = __ballot_sync(kAll, found);
        if (found) {
            const int rank = found_count + __popc(finders & below);
            c.found[rank] = Found{slot, label, utterance};
            if (writes)
                batch.log[log_count + rank] = (u64)utterance << 48 | (u64)label << 32 | (u64)frame << 8 | (u64)skip;
            const int symbols = s.last_frame == frame ? s.symbols + 1 : 1;
            s.symbols = symbols;
            s.last_frame = frame;
            s.prediction = step;
            frame += skip == 0 && symbols >= MAX_SYMBOLS ? 1 : skip;
        }
        found_count += __popc(finders);
        if (valid) s.frame = frame;
        const u32 finished = __ballot_sync(kAll, valid && frame >= length);
        bool stays = valid;
        if (finished)
            stays &= replace_finished(c, batch, finished, valid && frame >= length, slot, next_utterance,
                                      assigned_count, writes);
        const u32 staying = __ballot_sync(kAll, stays);
        __syncwarp();
        if (stays) c.active[active_count + __popc(staying & below)] = slot;  // never beyond what was read
        active_count += __popc(staying);
        __syncwarp();
    }
    __syncwarp();
    if (lane == 0) {
        c.found_count = found_count;
        c.active_count = active_count;
        c.assigned_count = assigned_count;
        c.next_utterance = next_utterance;
        c.log_count = log_count + found_count;
        c.steps += count > 0;
        c.label_steps += found_count > 0;
        c.columns += count << shift;
        c.lookahead_shift = choose_lookahead(batch, active_count);
    }
    __syncwarp();
}

// What the host reads when the call has finished.
__device__ __forceinline__ void report_run(const Control& c, const Batch& batch) {
    batch.report[0] = (u64)c.log_count;
    batch.report[1] = (u64)c.steps;
    batch.report[2] = (u64)c.label_steps;
    batch.report[3] = (u64)c.columns;
}

// ------------------------------------------------------------------------------------ a column of the joint

struct Column {
    bool valid;
    int slot;
    int utterance;
    u32 prediction;     // as Slot's
    const u16* states;  // the frame's row
};

// The column that this lane's part of a column tile belongs to.
__device__ __forceinline__ Column joint_column(const Control& c, const Batch& batch, int first) {
    const int column = first + (threadIdx.x & 31) / 4, shift = c.lookahead_shift;
    const bool present = column < column_count(c);
    const int slot = c.active[present ? column >> shift : 0];
    const Slot& at = c.slot[slot];
    const int frame = at.frame + (column & ((1 << shift) - 1));
    const bool valid = present && frame < at.length;
    const size_t row = (size_t)at.utterance * batch.frames + (valid ? frame : 0);
    return Column{valid, slot, at.utterance, at.prediction, batch.projected + row * JOINT};
}

// This lane's part of a plain vector of 16-bit numbers.
template <int PAIRS, int PAIRS_TOTAL>
__device__ __forceinline__ void load_vector(uint4 (&x)[PAIRS], const u16* vector, bool wanted) {
    const int warp = threadIdx.x / 32, quad = threadIdx.x & 3;
#pragma unroll
    for (int p = 0; p < PAIRS; ++p) {
        const int pair = warp * PAIRS + p;
        x[p] = make_uint4(0, 0, 0, 0);
        if (wanted && pair < PAIRS_TOTAL) x[p] = *(const uint4*)(vector + pair * 32 + quad * 8);
    }
}

// Load this block's output rows into registers, for good.
__device__ __forceinline__ void load_joint_weights(uint4 (&weights)[JOINT_TILES][kJointPairsPerWarp][2],
                                                   const uint4* packed, int first_tile) {
    const int warp = threadIdx.x / 32;
#pragma unroll
    for (int tile = 0; tile < JOINT_TILES; ++tile)
#pragma unroll
        for (int p = 0; p < kJointPairsPerWarp; ++p)
#pragma unroll
            for (int step = 0; step < 2; ++step) {
                const int pair = warp * kJointPairsPerWarp + p;
                weights[tile][p][step] = make_uint4(0, 0, 0, 0);
                if (pair < kJointPairs)
                    weights[tile][p][step] =
                        load_constant(packed + fragment_index(first_tile + tile, kJointPairs, pair, step));
            }
}

// Partial sums of this block's outputs for one column tile, x = relu(state + prediction).
__device__ __forceinline__ void multiply_joint(float* partial, const uint4 (&weights)[JOINT_TILES][kJointPairsPerWarp][2],
                                               const uint4 (&x)[kJointPairsPerWarp]) {
    float acc[JOINT_TILES][4] = {};
#pragma unroll
    for (int p = 0; p < kJointPairsPerWarp; ++p)
#pragma unroll
        for (int tile = 0; tile < JOINT_TILES; ++tile) {
            mma(acc[tile], weights[tile][p][0], x[p].x, x[p].y);
            mma(acc[tile], weights[tile][p][1], x[p].z, x[p].w);
        }
    store_partial<JOINT_TILES>(partial, acc);
}
