//! endcap-model-registry
