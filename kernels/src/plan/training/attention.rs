//! The backward pass of attention.

use super::{Fields, Worker};
use crate::training::attention::{AttentionBackward, Heads, Part, MAX_PARTS};

impl Fields {
    unsafe fn heads(&mut self) -> Heads {
        Heads {
            base: self.at_mut(),
            row: self.size(),
            head: self.size(),
        }
    }
}

impl Worker<'_> {
    pub unsafe fn attention_backward(&self, f: &mut Fields) {
        let rows = f.size();
        let positions = f.at();
        let (heads, kv_heads, scale, window) = (f.size(), f.size(), f.float(), f.size());
        let value_dim = f.size();
        let [v, v_gradient, out, out_gradient] = core::array::from_fn(|_| f.heads());
        let count = f.size();
        let mut parts = [Part {
            dim: 0,
            q: v,
            k: v,
            q_gradient: v,
            k_gradient: v,
        }; MAX_PARTS];
        for part in parts.iter_mut().take(count) {
            *part = Part {
                dim: f.size(),
                q: f.heads(),
                k: f.heads(),
                q_gradient: f.heads(),
                k_gradient: f.heads(),
            };
        }
        let attention = AttentionBackward {
            parts: &parts[..count],
            value_dim,
            v,
            v_gradient,
            out,
            out_gradient,
            heads,
            kv_heads,
            scale,
            window,
            positions,
            rows,
        };
        for task in self.tasks(attention.tasks()) {
            attention.run(task, self.scratch() as *mut f32);
        }
    }
}
