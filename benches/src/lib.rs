//! Measures parts of Holdfast against what the machine gives by itself, in one run and in turns: a machine's mood changes
//! from minute to minute, a ratio within a run much less.
//!
//! | module | role |
//! | --- | --- |
//! | `raw` | durable writes with nothing between them and the kernel |
//! | `shard` | the real store on the real disk driver |
//! | `journal` | the journal's micro-benchmark |
//! | `micro` | steps of a write's way without a device, to be counted in instructions |
//! | `table` | whole clusters: the rows, the goals, and how a row is measured with `holdfast bench` |
//! | `rack` | a cluster on hosts of others, by ssh |

pub mod journal;
pub mod micro;
pub mod rack;
pub mod raw;
pub mod shard;
pub mod table;
