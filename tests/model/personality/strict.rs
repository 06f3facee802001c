//! The specification to the letter: what the model is without any change. Its limits are narrow,
//! so that ignoring one of them shows.

use super::Device;

pub fn shape(_device: &mut Device) {}
