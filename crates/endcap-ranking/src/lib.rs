//! endcap-ranking
