# ruff: noqa: E501
"""The 39 messages of TCPRELAY.EXE 1.0.0, word for word from its manual, by number."""

MESSAGES = {
    1: "Error: This system does not provide a high resolution timer.",
    2: "Error: <fwd port> must be between 1 and 65535 inclusive.",
    3: "Error: Invalid IP address specified for <trg host>.",
    4: "Error: <trg port> must be between 1 and 65535 inclusive.",
    5: "Error: <ACL> needs to be keyword ANY, or dotted decimal IP/mask notation.",
    6: "Error: <c t/o> must be between 1 and 3 inclusive.",
    7: "Error: <i t/o> must be between 1 and 1800 inclusive.",
    8: "Error: <buf> must be between 100 and 4000 inclusive.",
    9: "Error: WinSock initialization failure.",
    10: "Error: WinSock version must be at least 2.0.",
    11: "Error: Listener socket creation failure.",
    12: "Error: Could not bind listener port to socket.",
    13: "Error: Listener failed to initialize.",
    14: "Error: Unable to start the maintenance thread.",
    15: "The relayer is now active.  Data received on TCP port <fwd port> will be forwarded to <trg host> port "
    "<trg port>...",
    16: "Connection attempt made from <rqst IP addr>.",
    17: "Connection from <rqst IP addr> rejected due to ACL mismatch.",
    18: "Connection from <rqst IP addr> was accepted.  Allocating a session handler.",
    19: "Could not allocate a socket to target <trg host>.  Request from <rqst IP addr> aborted.",
    20: "Connection from <rqst IP addr> was dropped because the session handler thread failed to start.",
    21: "Session pool exhausted.  Connection from <rqst IP addr> was dropped.",
    22: "Error number <err num> was returned during requester connection attempt.",
    23: "Absolute timeout expired.  This process will now terminate.",
    24: "Session handler serial number <ser num> connecting <rqst IP addr> to <trg host> exceeded the idle timeout "
    "and has been terminated.",
    25: "Session handler serial number <ser num> connecting <rqst IP addr> to <trg host> has been terminated due to "
    "an expired target connection attempt.",
    26: "Session handler serial number <ser num> was allocated for request from <rqst IP addr>.  Connecting to "
    "target <trg host>.",
    27: "The target refused the connection attempt for session handler serial number <ser num>.",
    28: "Session handler serial number <ser num> made a successful connection to the target.  Starting the relay "
    "threads.",
    29: "Session handler serial number <ser num> could not start the requester relay thread.",
    30: "Session handler serial number <ser num> could not start the target relay thread.",
    31: "Session handler serial number <ser num> successfully started both relay threads.",
    32: "Session handler serial number <ser num> failed to allocate a requester transfer buffer.",
    33: "Session handler serial number <ser num> requester-to-target channel is now active.",
    34: "Session handler serial number <ser num> terminated due to requester read closure.",
    35: "Session handler serial number <ser num> terminated due to target write closure.",
    36: "Session handler serial number <ser num> failed to allocate a target transfer buffer.",
    37: "Session handler serial number <ser num> target-to-requester channel is now active.",
    38: "Session handler serial number <ser num> terminated due to target read closure.",
    39: "Session handler serial number <ser num> terminated due to requester write closure.",
}

BLANKS = {
    "<rqst IP addr>": "client_ip",
    "<ser num>": "session",
    "<err num>": "errno",
    "<fwd port>": "listen_port",
    "<trg host>": "target_ip",
    "<trg port>": "target_port",
}
"""The field that fills each of the manual's blanks.

Messages 2 to 8 name the parameter itself, and keep the blank.
"""
