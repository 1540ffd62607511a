//! endcap-feature-cache
