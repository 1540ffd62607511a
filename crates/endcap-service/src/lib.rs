//! endcap-service
