export function ClusterPage() { return <p class="empty">cluster</p> }
