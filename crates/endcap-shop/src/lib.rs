//! endcap-shop
