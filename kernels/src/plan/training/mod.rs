//! Ops of training. What runs on one thread alone is a few numbers a token; the others wait for it at the
//! op's end.

mod attention;
mod losses;
mod mixture;
mod products;
mod rows;
mod updates;

use super::{Fields, Worker};

/// Numbers of the ops, as in `src/backend/wasm/training/opcodes.ts`.
const COPY: u32 = 32;
const FILL: u32 = 33;
const SWIGLU: u32 = 34;
const SWIGLU_BACKWARD: u32 = 35;
const LATENT_TOKENS: u32 = 36;
const ROTATE_BACK: u32 = 37;
const NORM_BACKWARD: u32 = 38;
const ATTENTION_BACKWARD: u32 = 39;
const GATHER_BACKWARD: u32 = 40;
const EMBED_BACKWARD: u32 = 41;
const PRODUCTS: u32 = 42;
const COLUMN_SUMS: u32 = 43;
const TOKEN_LOG_PROBS: u32 = 44;
const TOKEN_BACKWARD: u32 = 45;
const LIKELIHOOD: u32 = 46;
const POLICY: u32 = 47;
const SORT_EXPERTS: u32 = 48;
const EXPERT_SLOPES: u32 = 49;
const EXPERT_GATHER: u32 = 50;
const KEEPING_EXPERTS: u32 = 51;
const REPLAY_GATE: u32 = 52;
const GATE_SLOPES: u32 = 53;
const ZERO: u32 = 54;
const PREPARE: u32 = 55;
const UPDATE: u32 = 56;
const COUNT_EXPERTS: u32 = 57;
const UPDATE_BIAS: u32 = 58;

impl Worker<'_> {
    /// Runs one of the ops of training.
    pub unsafe fn train(&self, opcode: u32, f: &mut Fields) {
        match opcode {
            COPY => self.copy(f),
            FILL => self.fill(f),
            SWIGLU => self.swiglu(f),
            SWIGLU_BACKWARD => self.swiglu_backward(f),
            LATENT_TOKENS => self.latent_tokens(f),
            ROTATE_BACK => self.rotate_back(f),
            NORM_BACKWARD => self.norm_backward(f),
            ATTENTION_BACKWARD => self.attention_backward(f),
            GATHER_BACKWARD => self.gather_backward(f),
            EMBED_BACKWARD => self.embed_backward(f),
            PRODUCTS => self.products(f),
            COLUMN_SUMS => self.column_sums(f),
            TOKEN_LOG_PROBS => self.token_log_probs(f),
            TOKEN_BACKWARD => self.token_backward(f),
            LIKELIHOOD => self.likelihood(f),
            POLICY => self.policy(f),
            SORT_EXPERTS => self.sort_experts(f),
            EXPERT_SLOPES => self.expert_slopes(f),
            EXPERT_GATHER => self.expert_gather(f),
            KEEPING_EXPERTS => self.keeping_experts(f),
            REPLAY_GATE => self.gate(f, true),
            GATE_SLOPES => self.gate_slopes(f),
            ZERO => self.zero(f),
            PREPARE => self.prepare_update(f),
            UPDATE => self.update(f),
            COUNT_EXPERTS => self.count_experts(f),
            UPDATE_BIAS => self.update_bias(f),
            opcode => panic!("unknown opcode {opcode}"),
        }
    }

    /// Whether this thread does what one thread does alone.
    fn is_first(&self) -> bool {
        self.thread == 0
    }
}
