//! endcap-gateway
