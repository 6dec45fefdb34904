//! Ops over the cache of latents.

use super::{Fields, Worker};
use crate::cells::Cells;
use crate::latent::{LatentAttention, LatentLayer, LatentRotation};

impl Worker<'_> {
    unsafe fn latent_layer(&self, f: &mut Fields) -> LatentLayer {
        LatentLayer {
            base: f.at_mut(),
            cells: Cells::of(f.word()),
            latent: f.size(),
            rope: f.size(),
        }
    }

    pub unsafe fn rotate_latent(&self, f: &mut Fields) {
        let rows = f.size();
        let rotation = LatentRotation {
            q: f.at_mut(),
            heads: f.size(),
            nope: f.size(),
            kv: f.at(),
            norm: f.at(),
            eps: f.float(),
            cos_sin: f.at(),
            interleaved: f.word() != 0,
            layer: self.latent_layer(f),
            batch: self.batch(f),
        };
        let per_row = rotation.heads + 1;
        // A few heads a task, as for other rotations.
        let step = (rows * per_row)
            .div_ceil(4 * self.context.threads as usize)
            .max(4);
        for task in self.tasks((rows * per_row).div_ceil(step)) {
            for item in task * step..(rows * per_row).min((task + 1) * step) {
                let (row, head) = (item / per_row, item % per_row);
                if head < rotation.heads {
                    rotation.query(row, head);
                } else {
                    rotation.key(row, self.scratch() as *mut f32);
                }
            }
        }
    }

    pub unsafe fn latent_attention(&self, f: &mut Fields) {
        let attention = LatentAttention {
            rows: f.size(),
            latent_query: f.at(),
            q: f.at(),
            heads: f.size(),
            nope: f.size(),
            scale: f.float(),
            out: f.at_mut(),
            layer: self.latent_layer(f),
            batch: self.batch(f),
        };
        let split = attention.split(self.context.threads as usize);
        for task in self.tasks(attention.tasks(split)) {
            attention.run(split, task, self.scratch() as *mut f32);
        }
    }
}
