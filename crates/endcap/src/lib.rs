//! endcap
