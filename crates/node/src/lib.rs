//! One node's pure core: carries the outputs of one pure crate to the inputs of another.
