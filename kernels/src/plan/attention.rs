//! Ops over the cache of keys and values.

use super::{Fields, Worker};
use crate::attention::{Attention, Batch, KvLayer, Rotation};
use crate::cells::Cells;

impl Worker<'_> {
    pub unsafe fn batch(&self, f: &mut Fields) -> Batch {
        Batch {
            positions: f.at(),
            sequences: f.at(),
            tables: f.at(),
            table_width: f.size(),
        }
    }

    unsafe fn layer(&self, f: &mut Fields) -> KvLayer {
        KvLayer {
            base: f.at_mut(),
            cells: Cells::of(f.word()),
            heads: f.size(),
            key_dim: f.size(),
            value_dim: f.size(),
        }
    }

    pub unsafe fn rotate(&self, f: &mut Fields) {
        let rows = f.size();
        let q = f.at_mut::<f32>();
        let k = f.at_mut::<f32>();
        let v = f.at::<f32>();
        let heads = f.size();
        let rotation = Rotation {
            cos_sin: f.at(),
            dim: f.size(),
            interleaved: f.word() != 0,
            q_norm: f.at(),
            k_norm: f.at(),
            eps: f.float(),
        };
        let layer = self.layer(f);
        let batch = self.batch(f);
        let per_row = heads + layer.heads;
        // A few heads a task: one head is too little work to be worth a turn at the cursor.
        let step = (rows * per_row)
            .div_ceil(4 * self.context.threads as usize)
            .max(4);
        for task in self.tasks((rows * per_row).div_ceil(step)) {
            for item in task * step..(rows * per_row).min((task + 1) * step) {
                let (row, head) = (item / per_row, item % per_row);
                if head < heads {
                    let at = q.add((row * heads + head) * layer.key_dim);
                    rotation.query(at, layer.key_dim, row);
                } else {
                    let head = head - heads;
                    let key = k.add((row * layer.heads + head) * layer.key_dim);
                    let value = v.add((row * layer.heads + head) * layer.value_dim);
                    rotation.key_value(key, value, head, row, &layer, &batch);
                }
            }
        }
    }

    pub unsafe fn attention(&self, f: &mut Fields) {
        let attention = Attention {
            rows: f.size(),
            q: f.at(),
            out: f.at_mut(),
            heads: f.size(),
            scale: f.float(),
            window: f.size(),
            sinks: f.at(),
            layer: self.layer(f),
            batch: self.batch(f),
        };
        let split = attention.split(self.context.threads as usize);
        for task in self.tasks(attention.tasks(split)) {
            attention.run(split, task, self.scratch() as *mut f32);
        }
    }
}
