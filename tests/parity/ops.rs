//! Every differentiable op against PyTorch in f64, and its fused f32 path against the composed one.
