//! endcap-inference
