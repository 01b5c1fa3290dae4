"""One BitTorrent peer on libtorrent 2: libtorrent.py TORRENT seed|machine, see rival.go."""

import os
import sys
import time

import libtorrent as lt


def tell(file, text):
    with open(file + ".tmp", "w") as f:
        f.write(text)
    os.rename(file + ".tmp", file)


torrent, seed = sys.argv[1], sys.argv[2] == "seed"
# libtorrent's own preset for speed, without what reaches out of the stand. Its deep queues and
# its suggestions make many machines ask the seed for the same pieces: both cut, one seed
# and eight machines on links of 100 Mbit/s took 18 s instead of 22, where the bound is 10.
settings = lt.high_performance_seed()
settings.update({
    "listen_interfaces": "0.0.0.0:6881",
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "enable_outgoing_utp": False, "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True,
    "unchoke_slots_limit": -1, "connections_limit": 8000, "connection_speed": 500,
    "request_queue_time": 1, "max_out_request_queue": 128, "suggest_mode": 0,
    "min_announce_interval": 1, "min_reconnect_time": 1,
    "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.error_notification,
})
session = lt.session(settings)
params = lt.add_torrent_params()
params.ti = lt.torrent_info(torrent)
params.save_path = "."
params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
if seed:
    params.flags |= lt.torrent_flags.seed_mode
tell("ready", "ready")
sys.stdin.readline()
session.add_torrent(params)
while True:
    session.wait_for_alert(1000)
    for alert in session.pop_alerts():
        if isinstance(alert, lt.torrent_finished_alert) and not seed:
            tell("done", "%.6f" % time.time())
        elif alert.category() & lt.alert.category_t.error_notification:
            print(alert.message(), flush=True)
