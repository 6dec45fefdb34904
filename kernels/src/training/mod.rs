//! What training adds to the forward pass: products of the backward pass, slopes, losses and updates, all
//! in float32.

pub mod attention;
pub mod elementwise;
pub mod gate;
pub mod losses;
pub mod pack;
pub mod product;
pub mod rows;
pub mod tile;
pub mod updates;
